import { grown } from "../motion";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, series, size, TOP, WIDTH } from "../theme";
import { Text } from "./Text";

const WAITING_HEIGHT = 230;
const ROW = { top: BOTTOM - 96, height: 58 };

type Props = { scene: Scene<"DataPipeline">; frame: number; framesOfChoice: number };

/** One row being filled: the lengths that wait, the room that is left, the piece that is taken. */
export function Packing({ scene, frame, framesOfChoice }: Props) {
  const at = Math.min(scene.choices.length - 1, Math.floor(frame / framesOfChoice));
  const choice = scene.choices[at];
  const moved = grown(frame - at * framesOfChoice, framesOfChoice * 0.45, framesOfChoice * 0.8);
  const width = WIDTH - 2 * MARGIN;
  const unit = width / scene.row_tokens;
  const pitch = width / Math.max(1, choice.waiting.length);
  const bottom = TOP + 40 + WAITING_HEIGHT;
  const height = (length: number) => (WAITING_HEIGHT * length) / scene.row_tokens;
  const taken = choice.waiting.indexOf(choice.length);
  const line = bottom - height(choice.room);
  const start = scene.row_tokens - choice.room;
  const placed = scene.choices.slice(0, at);
  const between = (from: number, to: number) => from + (to - from) * moved;
  return (
    <g>
      <Text x={MARGIN} y={TOP + 8} fill={color.quiet}>
        {`${choice.waiting.length} waiting documents, each as high as it is long`}
      </Text>
      <Text x={WIDTH - MARGIN} y={TOP + 8} anchor="end" bold>
        {`- - -  room in the row: ${choice.room}`}
      </Text>
      {choice.waiting.map((length, i) => (
        <rect
          key={i}
          x={MARGIN + i * pitch}
          y={bottom - height(length)}
          width={pitch - 3}
          height={height(length)}
          rx={2}
          fill={i === taken ? "none" : length <= choice.room ? series[0] : color.line}
          stroke={i === taken ? color.accent : "none"}
          strokeWidth={2}
        />
      ))}
      <line
        x1={MARGIN}
        x2={WIDTH - MARGIN}
        y1={line}
        y2={line}
        stroke={color.ink}
        strokeWidth={2}
        strokeDasharray="7 6"
      />
      <rect x={MARGIN} y={ROW.top} width={width} height={ROW.height} rx={6} fill={color.panel} stroke={color.line} />
      <Text x={MARGIN} y={ROW.top - 20} fill={color.quiet}>
        {`the row: ${scene.row_tokens} places`}
      </Text>
      {placed.map((one, i) => (
        <Piece
          key={i}
          left={MARGIN + (scene.row_tokens - one.room) * unit}
          width={one.placed * unit}
          label={one.placed}
          tint={series[i % series.length]}
        />
      ))}
      {taken >= 0 && (
        <rect
          x={between(MARGIN + taken * pitch, MARGIN + start * unit)}
          y={between(bottom - height(choice.length), ROW.top + 3)}
          width={between(pitch - 3, choice.placed * unit - 2)}
          height={between(height(choice.length), ROW.height - 6)}
          rx={4}
          fill={color.accent}
        />
      )}
      {moved === 1 && (
        <Piece
          left={MARGIN + start * unit}
          width={choice.placed * unit}
          label={choice.placed}
          tint={series[at % series.length]}
        />
      )}
    </g>
  );
}

function Piece({ left, width, label, tint }: { left: number; width: number; label: number; tint: string }) {
  return (
    <g>
      <rect x={left + 1} y={ROW.top + 3} width={Math.max(2, width - 2)} height={ROW.height - 6} rx={4} fill={tint} />
      <Text
        x={left + width / 2}
        y={width > 34 ? ROW.top + ROW.height / 2 : ROW.top + ROW.height + 18}
        anchor="middle"
        bold={width > 34}
        fill={width > 34 ? color.ground : tint}
        fontSize={width > 34 ? size.label : size.small}
      >
        {label}
      </Text>
    </g>
  );
}
