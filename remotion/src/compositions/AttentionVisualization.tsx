import { useCurrentFrame } from "remotion";
import type { Caption } from "../captions";
import { AllHeads, Heatmap } from "../components/Heatmap";
import { Stage } from "../components/Stage";
import { clipped, Text, visible } from "../components/Text";
import { Sentence } from "../components/Sentence";
import { grown, passed } from "../motion";
import { percent, whole } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, size, TOP } from "../theme";

type Figures = Scene<"AttentionVisualization">;
type Shown = { layer: number; head: number; does?: Figures["shown"][number]["does"]; share?: number };

const WALK: readonly [number, number] = [50, 170];
const HEAD_FRAMES = 60;
const LAST_FRAMES = 100;
const MAP = { left: MARGIN + 118, top: TOP, side: BOTTOM - TOP - 6 };
const RIGHT = { left: 690, right: 1280 - MARGIN };

/** The head that is looked at first, then those that do something most of all. */
export function tour(scene: Figures): Shown[] {
  return scene.shown.length ? [...scene.shown] : [{ layer: 0, head: 0 }];
}

export const frames = (scene: Figures) => WALK[1] + HEAD_FRAMES * tour(scene).length + LAST_FRAMES;

export function Drawing({ scene }: { scene: Figures }) {
  const frame = useCurrentFrame();
  const stops = tour(scene);
  const at = Math.min(stops.length - 1, Math.max(0, Math.floor((frame - WALK[1]) / HEAD_FRAMES)));
  const now = stops[at];
  const T = scene.tokens.length;
  const rows = frame < WALK[1] ? Math.ceil(passed(frame, ...WALK) * T) : T;
  const query = frame < WALK[1] ? Math.max(0, rows - 1) : T - 1;
  const layer = scene.layers[now.layer];
  const ending = grown(frame, WALK[1] + HEAD_FRAMES * stops.length, WALK[1] + HEAD_FRAMES * stops.length + 15);
  return (
    <Stage
      title="Where the model looks"
      subtitle={clipped(`${scene.name}: attention in “${scene.prompt.replace(/\n/g, " ")}”`, 96)}
      captions={captions(scene, stops)}
    >
      <Heatmap
        {...MAP}
        tokens={scene.tokens}
        weights={layer.heads[now.head]}
        window={layer.window}
        rows={rows}
        query={query}
        markColumn={now.does === "sink" && frame >= WALK[1] ? 0 : undefined}
      />
      <Text x={RIGHT.left} y={TOP + 12} fontSize={26} bold>
        {`layer ${now.layer + 1}, head ${now.head + 1}`}
      </Text>
      <Text x={RIGHT.right} y={TOP + 12} fontSize={size.small} fill={color.quiet} anchor="end">
        {`what “${visible(scene.tokens[query])}” looks at`}
      </Text>
      <Sentence
        left={RIGHT.left}
        right={RIGHT.right}
        top={TOP + 40}
        height={112}
        tokens={scene.tokens}
        query={query}
        weights={layer.heads[now.head][query]}
      />
      <g opacity={1 - ending}>
        <AllHeads
          left={RIGHT.left}
          right={RIGHT.right}
          top={TOP + 172}
          bottom={BOTTOM}
          scene={scene}
          current={now}
          frame={frame}
        />
      </g>
      <g opacity={ending}>
        <Next scene={scene} shown={ending} />
      </g>
    </Stage>
  );
}

/** What the model holds likeliest to come next. */
function Next({ scene, shown }: { scene: Figures; shown: number }) {
  const width = RIGHT.right - RIGHT.left;
  return (
    <g>
      <Text x={RIGHT.left} y={TOP + 222} fill={color.quiet}>
        likeliest next
      </Text>
      {scene.next.map(({ token, probability }, i) => {
        const y = TOP + 250 + i * 41;
        return (
          <g key={i}>
            <rect
              x={RIGHT.left}
              y={y}
              width={Math.max(3, (width - 250) * probability * shown)}
              height={30}
              rx={5}
              fill={color.accent}
              opacity={i ? 0.55 : 1}
            />
            <Text x={RIGHT.left + Math.max(3, (width - 250) * probability * shown) + 12} y={y + 15}>
              {`${percent(probability)}  ${clipped(visible(token), 14)}`}
            </Text>
          </g>
        );
      })}
    </g>
  );
}

function said({ layer, head, does, share }: Shown): string {
  const who = `layer ${layer + 1}, head ${head + 1}`;
  const part = share === undefined ? "" : percent(share);
  switch (does) {
    case "previous":
      return `Of all heads, ${who} looks the most at the token before: ${part} of its attention goes there.`;
    case "sink":
      return `Of all heads, ${who} rests the most on the very first token: ${part} of its attention. Such a place is called a sink.`;
    case "self":
      return `Of all heads, ${who} looks the most at the token itself: ${part} of its attention.`;
    case "far":
      return `Of all heads, ${who} looks back the most: ${part} of its attention is 4 or more tokens away, the first one left out.`;
    case "broad":
      return `Of all heads, ${who} spreads the most evenly: as if over ${part} of the tokens that it can see.`;
    default:
      return `This is ${who}.`;
  }
}

function captions(scene: Figures, stops: Shown[]): Caption[] {
  const windows = scene.layers.filter((layer) => layer.window < scene.tokens.length - 1);
  const sight = windows.length
    ? `Dark squares are out of sight: ${windows.length} of ${scene.layers.length} layers see only ${whole(Math.min(...windows.map((layer) => layer.window)))} tokens back.`
    : "Nothing is ever to the right of the diagonal: no token sees what comes after it.";
  const [best] = scene.next;
  const heads = scene.layers.reduce((sum, layer) => sum + layer.heads.length, 0);
  return [
    {
      from: 0,
      text: "Each row is a token, each column one that it may read: the brighter, the more. A row sums to 100%.",
    },
    { from: WALK[0] + 50, text: sight },
    ...stops.map((stop, i) => ({ from: WALK[1] + i * HEAD_FRAMES, text: said(stop) })),
    {
      from: WALK[1] + HEAD_FRAMES * stops.length,
      text: best
        ? `From all ${heads} heads together it reads that “${visible(best.token)}” comes next, with a probability of ${percent(best.probability)}.`
        : `These are all ${heads} heads of the model.`,
    },
  ];
}
