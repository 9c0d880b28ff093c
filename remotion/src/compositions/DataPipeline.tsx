import { useCurrentFrame } from "remotion";
import type { Caption } from "../captions";
import { Packing } from "../components/Packing";
import { Rows } from "../components/Rows";
import { laidOut } from "../components/Sentence";
import { Stage } from "../components/Stage";
import { clipped, Text } from "../components/Text";
import { grown } from "../motion";
import { percent, significant, whole } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, mono, series, size, TOP, WIDTH } from "../theme";

type Figures = Scene<"DataPipeline">;
type Span = readonly [number, number];

const READ: Span = [0, 80];
const MERGE_FRAMES = 18;
const TOKENS_FRAMES = 110;
const BATCH_FRAMES = 130;

/** For each document of the row; many small ones go faster. */
function choiceFrames(scene: Figures): number {
  return Math.max(8, Math.min(55, Math.round(240 / scene.choices.length)));
}

/** Where each part begins and ends; the second is left out where nothing is merged. */
export function parts(scene: Figures): { read: Span; merge: Span; tokens: Span; pack: Span; batch: Span } {
  const lengths = [
    scene.merges.length ? scene.merges.length * MERGE_FRAMES + 45 : 0,
    TOKENS_FRAMES,
    scene.choices.length * choiceFrames(scene) + 30,
    BATCH_FRAMES,
  ];
  let at = READ[1];
  const [merge, tokens, pack, batch] = lengths.map((length) => [at, (at += length)] as const);
  return { read: READ, merge, tokens, pack, batch };
}

export const frames = (scene: Figures) => parts(scene).batch[1];

export function Drawing({ scene }: { scene: Figures }) {
  const frame = useCurrentFrame();
  const { read, merge, tokens, pack, batch } = parts(scene);
  const isIn = ([from, to]: Span) => frame >= from && frame < to;
  const enters = ([from]: Span) => grown(frame, from, from + 10);
  return (
    <Stage title="From text to a batch" subtitle={subtitle(scene)} captions={captions(scene)}>
      {isIn(read) && <Reading text={scene.text} frame={frame} />}
      {isIn(merge) && (
        <g opacity={enters(merge)}>
          <Merges merges={scene.merges} frame={frame - merge[0]} />
        </g>
      )}
      {isIn(tokens) && <Tokens scene={scene} frame={frame - tokens[0]} />}
      {isIn(pack) && (
        <g opacity={enters(pack)}>
          <Packing scene={scene} frame={frame - pack[0]} framesOfChoice={choiceFrames(scene)} />
        </g>
      )}
      {isIn(batch) && <Rows scene={scene} frame={frame - batch[0]} />}
    </Stage>
  );
}

function subtitle(scene: Figures): string {
  const tokenizer = scene.tokenizer === "bpe" ? "byte pair encoding" : `${scene.tokenizer}s`;
  return clipped(
    `${scene.name}: ${tokenizer} with ${whole(scene.vocabulary)} tokens, the batch of step ${whole(scene.step)}`,
    90,
  );
}

function Reading({ text, frame }: { text: string; frame: number }) {
  const shown = Math.ceil(grown(frame, 5, 60) * text.length);
  return (
    <foreignObject x={MARGIN} y={TOP + 10} width={WIDTH - 2 * MARGIN} height={BOTTOM - TOP}>
      <div
        style={{
          fontFamily: mono,
          fontSize: text.length < 360 ? 36 : 26,
          lineHeight: 1.5,
          color: color.ink,
          whiteSpace: "pre-wrap",
        }}
      >
        {text.slice(0, shown)}
        <span style={{ opacity: 0 }}>{text.slice(shown)}</span>
      </div>
    </foreignObject>
  );
}

/** A word's parts after each merge, one line below the other; what has just been joined is lit. */
function Merges({ merges, frame }: { merges: readonly (readonly string[])[]; frame: number }) {
  const height = Math.min(54, (BOTTOM - TOP - 10) / merges.length);
  const fontSize = height * 0.58;
  const unit = fontSize * 0.62;
  const now = Math.min(merges.length - 1, Math.floor(frame / MERGE_FRAMES));
  const letters = merges[0].length;
  const left = WIDTH / 2 - (letters * (unit + 26)) / 2;
  return (
    <g>
      {merges.slice(0, now + 1).map((parts, line) => {
        const before = merges[line - 1] ?? parts;
        const joined = line ? parts.findIndex((part, i) => part !== before[i]) : -1;
        let x = left;
        const y = TOP + 6 + line * height;
        return (
          <g key={line} opacity={grown(frame, line * MERGE_FRAMES, line * MERGE_FRAMES + 8)}>
            <Text x={left - 40} y={y + height / 2} anchor="end" fill={color.quiet} fontSize={size.small}>
              {line === 0 ? "bytes" : line === merges.length - 1 ? "one token" : `merge ${line}`}
            </Text>
            {parts.map((part, i) => {
              const width = [...part].length * (unit + 26) - 8;
              const box = { x, lit: i === joined };
              x += width + 8;
              return (
                <g key={i}>
                  <rect
                    x={box.x}
                    y={y + 3}
                    width={width}
                    height={height - 8}
                    rx={7}
                    fill={box.lit ? color.accent : color.panel}
                    stroke={color.line}
                  />
                  <Text
                    x={box.x + width / 2}
                    y={y + height / 2 - 1}
                    anchor="middle"
                    isMono
                    fontSize={fontSize}
                    fill={box.lit ? color.ground : color.ink}
                  >
                    {part.replace(/ /g, "␣")}
                  </Text>
                </g>
              );
            })}
          </g>
        );
      })}
    </g>
  );
}

/** The text as tokens, each with its number below. */
function Tokens({ scene, frame }: { scene: Figures; frame: number }) {
  const widened = scene.tokens.map(({ id, text }) => text.padEnd(Math.ceil(String(id).length * 0.85), "\u2007"));
  const place = { left: MARGIN, right: WIDTH - MARGIN, top: TOP + 10, height: BOTTOM - TOP - 10 };
  const { fontSize, chips } = laidOut(widened, place, [26, 22, 18, 15], (one) => one * 1.45 + 42);
  const height = fontSize * 1.45;
  return (
    <g>
      {chips.map((chip, i) => {
        const y = chip.top;
        return (
          <g key={i} opacity={grown(frame, (i * 40) / chips.length, (i * 40) / chips.length + 10)}>
            <rect x={chip.left} y={y} width={chip.width} height={height} rx={6} fill={series[i % series.length]} />
            <Text x={chip.left + 5} y={y + height / 2} isMono fontSize={fontSize} fill={color.ground}>
              {chip.label}
            </Text>
            <Text
              x={chip.left + chip.width / 2}
              y={y + height + 16}
              anchor="middle"
              fill={color.quiet}
              fontSize={size.small}
            >
              {scene.tokens[i].id}
            </Text>
          </g>
        );
      })}
    </g>
  );
}

function captions(scene: Figures): Caption[] {
  const { merge, tokens, pack, batch } = parts(scene);
  const [first] = scene.choices;
  const last = scene.choices.at(-1) ?? first;
  const pieces = scene.rows.flat();
  const cut = pieces.reduce((sum, piece) => sum + piece.of - piece.tokens, 0);
  const kept = pieces.reduce((sum, piece) => sum + piece.tokens, 0);
  const ratio = significant(scene.bytes / scene.tokens.length, 3);
  const said: Caption[] = [
    {
      from: 0,
      text: "The beginning of a document of this run's training data. A model knows only numbers: the text must be cut into tokens.",
    },
    {
      from: tokens[0],
      text: `${scene.bytes} bytes become ${scene.tokens.length} tokens, ${ratio} bytes each. The numbers are all that the model gets.`,
    },
    {
      from: pack[0],
      text: `Rows have ${scene.row_tokens} places. Of ${first.waiting.length} waiting documents the longest that fits comes next: first one of ${first.length}.`,
    },
    {
      from: batch[0],
      text: `${scene.rows.length} of the ${scene.rows_per_step} rows of step ${whole(scene.step)}. No place is empty; ${whole(cut)} tokens were cut off (${percent(cut / (cut + kept))}), to the right of the line.`,
    },
  ];
  if (scene.merges.length) {
    const word = scene.merges[0].join("").trim();
    said.push({
      from: merge[0],
      text: `Byte pair encoding joins the pair that was learned earliest, again and again: ${scene.merges.length - 1} merges make “${word}” one token.`,
    });
  }
  if (last.placed < last.length) {
    const from = pack[0] + (scene.choices.length - 1) * choiceFrames(scene);
    said.push({
      from,
      text: `Now nothing fits into the last ${last.room} ${last.room === 1 ? "place" : "places"}: the shortest, of ${last.length}, is cut, which wastes the least.`,
    });
  }
  return said.sort((a, b) => a.from - b.from);
}
