import { grown } from "../motion";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, series, size, TOP, WIDTH } from "../theme";
import { Text } from "./Text";

/** What is cut off of a row's last piece is drawn beyond the row's end, in this much space. */
const BEYOND = 250;

/** The rows of a batch: pieces in colours, what was cut off behind the line. */
export function Rows({ scene, frame }: { scene: Scene<"DataPipeline">; frame: number }) {
  const left = MARGIN + 74;
  const right = WIDTH - MARGIN - BEYOND;
  const unit = (right - left) / scene.row_tokens;
  const most = Math.max(1, ...scene.rows.flat().map((piece) => piece.of - piece.tokens));
  const unitBeyond = Math.min(unit, (BEYOND - 60) / most);
  const pitch = (BOTTOM - TOP - 34) / scene.rows.length;
  let number = 0;
  return (
    <g>
      <Text x={right + 12} y={TOP + 6} fill={color.quiet} fontSize={size.small}>
        cut off
      </Text>
      <Text x={left} y={TOP + 6} fill={color.quiet} fontSize={size.small}>
        {`${scene.row_tokens} tokens a row`}
      </Text>
      {scene.rows.map((row, i) => {
        const y = TOP + 28 + i * pitch;
        let x = left;
        return (
          <g key={i} opacity={grown(frame, i * 4, i * 4 + 12)}>
            <Text
              x={left - 12}
              y={y + pitch / 2 - 2}
              anchor="end"
              fill={i === scene.row ? color.ink : color.quiet}
              fontSize={size.small}
            >
              {`row ${i + 1}`}
            </Text>
            {row.map(({ tokens, of }, j) => {
              const width = tokens * unit;
              const at = x;
              x += width;
              const tint = series[number++ % series.length];
              const missing = (of - tokens) * unitBeyond;
              return (
                <g key={j}>
                  <rect x={at + 1} y={y} width={Math.max(1, width - 2)} height={pitch - 6} rx={4} fill={tint} />
                  {width > 44 && (
                    <Text
                      x={at + width / 2}
                      y={y + pitch / 2 - 2}
                      anchor="middle"
                      fill={color.ground}
                      fontSize={size.small}
                      bold
                    >
                      {tokens}
                    </Text>
                  )}
                  {of > tokens && (
                    <g>
                      <rect
                        x={right + 4}
                        y={y + 3}
                        width={missing}
                        height={pitch - 12}
                        rx={3}
                        fill={tint}
                        opacity={0.35}
                      />
                      <Text x={right + 12 + missing} y={y + pitch / 2 - 2} fill={color.quiet} fontSize={size.small}>
                        {`−${of - tokens}`}
                      </Text>
                    </g>
                  )}
                </g>
              );
            })}
          </g>
        );
      })}
      <line x1={right + 1} x2={right + 1} y1={TOP + 22} y2={BOTTOM} stroke={color.ink} strokeWidth={2.5} />
    </g>
  );
}
