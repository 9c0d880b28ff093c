import { useCurrentFrame } from "remotion";
import type { Caption } from "../captions";
import { Layer } from "../components/Layer";
import { Stage } from "../components/Stage";
import { clipped, Text } from "../components/Text";
import { grown, passed } from "../motion";
import { percent, short, whole } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, role, size, TOP } from "../theme";

type Figures = Scene<"TransformerArchitecture">;
type Part = keyof typeof role;

const LAYERS: readonly [number, number] = [70, 280];
const HEAD = 290;
const END = 345;
const TOWER = { left: MARGIN, width: 330 };
const SIDE = { left: 886, right: 1280 - MARGIN };
const ENDS_HEIGHT = 44;
const GAP = 5;

export const frames = () => 460;

export const NAMES: Record<Part, string> = {
  embedding: "embedding",
  attention: "attention",
  mlp: "MLP",
  value_embedding: "value embeddings",
  head: "head",
  positions: "learned positions",
  scalars: "all others",
};

function nameOf(part: Part, all: Record<Part, number>): string {
  return part === "embedding" && !all.head ? "embedding = head" : NAMES[part];
}

/** Parameters of each part of the model; all of them together are `parameters`. */
export function totals({ layers, outside }: Pick<Figures, "layers" | "outside">): Record<Part, number> {
  const sum = (part: "attention" | "mlp" | "value_embedding") => layers.reduce((all, layer) => all + layer[part], 0);
  return {
    embedding: outside.embedding,
    attention: sum("attention"),
    mlp: sum("mlp"),
    value_embedding: sum("value_embedding"),
    head: outside.head,
    positions: outside.positions,
    scalars: outside.scalars,
  };
}

export function Drawing({ scene }: { scene: Figures }) {
  const frame = useCurrentFrame();
  const count = scene.layers.length;
  const placed = passed(frame, ...LAYERS) * count;
  const opened = Math.min(count - 1, Math.floor(placed));
  const subtitle = clipped(
    `${scene.name}: ${scene.architecture}, ${count} layers, ${short(scene.parameters)} parameters`,
    90,
  );
  return (
    <Stage title="What the model is made of" subtitle={subtitle} captions={captions(scene)}>
      <Tower scene={scene} placed={placed} frame={frame} />
      <g opacity={grown(frame, LAYERS[0] - 10, LAYERS[0] + 10)}>
        <Layer scene={scene} index={opened} />
      </g>
      <Parameters scene={scene} placed={placed} frame={frame} />
    </Stage>
  );
}

/** The model from the bottom, where tokens come in, to the top, where scores come out. */
function Tower({ scene, placed, frame }: { scene: Figures; placed: number; frame: number }) {
  const count = scene.layers.length;
  const room = BOTTOM - TOP - 2 * (ENDS_HEIGHT + 30) - 2 * GAP;
  const height = Math.min(72, room / count);
  const first = BOTTOM - 30 - ENDS_HEIGHT - GAP;
  const top = first - height * count;
  const { left, width } = TOWER;
  const isHeadIn = grown(frame, HEAD, HEAD + 20);
  return (
    <g>
      <Text x={left + width / 2} y={BOTTOM - 12} anchor="middle" fill={color.quiet} opacity={grown(frame, 0, 15)}>
        tokens ↑
      </Text>
      <Slab
        y={BOTTOM - 30 - ENDS_HEIGHT}
        part="embedding"
        label={`embedding  ${whole(scene.table_rows)} × ${whole(scene.width)}`}
        shown={grown(frame, 10, 30)}
      />
      {scene.layers.map((layer, i) => {
        const shown = Math.min(1, Math.max(0, placed - i) * 2);
        const y = first - height * (i + 1) - (1 - shown) * 40;
        const inner = Math.max(2, height - GAP);
        const whole = layer.attention + layer.mlp;
        const split = (width * layer.attention) / whole;
        const narrow = layer.value_embedding ? 10 : 0;
        return (
          <g key={i} opacity={shown}>
            <rect x={left} y={y} width={split - 2} height={inner} fill={role.attention} rx={Math.min(5, inner / 3)} />
            <rect
              x={left + split + 1}
              y={y}
              width={width - split - 1}
              height={inner}
              fill={role.mlp}
              rx={Math.min(5, inner / 3)}
            />
            {narrow > 0 && (
              <rect x={left - narrow - 4} y={y} width={narrow} height={inner} fill={role.value_embedding} rx={3} />
            )}
            {inner >= 24 && (
              <>
                <Text
                  x={left + split / 2}
                  y={y + inner / 2}
                  anchor="middle"
                  fill={color.ground}
                  fontSize={size.small}
                  bold
                >
                  attention
                </Text>
                <Text
                  x={left + split + (width - split) / 2}
                  y={y + inner / 2}
                  anchor="middle"
                  fill={color.ground}
                  fontSize={size.small}
                  bold
                >
                  MLP
                </Text>
                <Text x={left + width + 10} y={y + inner / 2} fill={color.quiet} fontSize={size.small}>
                  {i + 1}
                </Text>
              </>
            )}
          </g>
        );
      })}
      <Slab
        y={top - ENDS_HEIGHT - GAP}
        part="head"
        label={scene.outside.head ? `head  ${whole(scene.width)} × ${whole(scene.table_rows)}` : "head  the embedding's table"}
        shown={isHeadIn}
      />
      <Text x={left + width / 2} y={top - ENDS_HEIGHT - GAP - 17} anchor="middle" fill={color.quiet} opacity={isHeadIn}>
        ↑ next token
      </Text>
    </g>
  );
}

function Slab({ y, part, label, shown }: { y: number; part: Part; label: string; shown: number }) {
  return (
    <g opacity={shown}>
      <rect x={TOWER.left} y={y} width={TOWER.width} height={ENDS_HEIGHT - 2} rx={8} fill={role[part]} />
      <Text x={TOWER.left + TOWER.width / 2} y={y + ENDS_HEIGHT / 2 - 1} anchor="middle" fill={color.ground} bold>
        {label}
      </Text>
    </g>
  );
}

/** Counts that grow as the parts are put in place. */
function Parameters({ scene, placed, frame }: { scene: Figures; placed: number; frame: number }) {
  const all = totals(scene);
  const largest = Math.max(...Object.values(all));
  const parts = (Object.keys(all) as Part[]).filter((part) => all[part] > 0);
  const outside = {
    embedding: grown(frame, 10, 40),
    positions: grown(frame, 10, 40),
    head: grown(frame, HEAD, HEAD + 30),
    scalars: grown(frame, HEAD, HEAD + 30),
  };
  const now = (part: Part) => {
    if (part === "embedding" || part === "positions" || part === "head" || part === "scalars") {
      return all[part] * outside[part];
    }
    return scene.layers.reduce((sum, layer, i) => sum + layer[part] * Math.min(1, Math.max(0, placed - i)), 0);
  };
  const sum = parts.reduce((total, part) => total + now(part), 0);
  const width = SIDE.right - SIDE.left - 44;
  return (
    <g opacity={grown(frame, 0, 20)}>
      <rect x={SIDE.left} y={TOP} width={SIDE.right - SIDE.left} height={BOTTOM - TOP} rx={14} fill={color.panel} />
      <Text x={SIDE.left + 22} y={TOP + 28} fill={color.quiet}>
        parameters
      </Text>
      <Text x={SIDE.left + 22} y={TOP + 66} fontSize={38} bold>
        {whole(sum)}
      </Text>
      {parts.map((part, i) => {
        const y = TOP + 108 + i * 57;
        return (
          <g key={part}>
            <Text x={SIDE.left + 22} y={y + 8} fontSize={size.small} fill={role[part]} bold>
              {nameOf(part, all)}
            </Text>
            <Text x={SIDE.right - 22} y={y + 8} fontSize={size.small} anchor="end">
              {whole(now(part))}
            </Text>
            <rect x={SIDE.left + 22} y={y + 23} width={width} height={14} rx={7} fill={color.ground} />
            <rect
              x={SIDE.left + 22}
              y={y + 23}
              width={Math.max(0, (width * now(part)) / largest)}
              height={14}
              rx={7}
              fill={role[part]}
            />
          </g>
        );
      })}
    </g>
  );
}

function captions(scene: Figures): Caption[] {
  const { layers, vocabulary, width, heads, context } = scene;
  const count = layers.length;
  const all = totals(scene);
  const short = layers.filter((layer) => layer.window < context - 1);
  const [from, to] = LAYERS;
  const third = (to - from) / 3;
  const windows = short.length
    ? `${short.length} of ${count} layers see only the last ${whole(short[0].window)} tokens; the others see the whole context of ${whole(context)}.`
    : `Every layer sees the whole context: the token itself and all before it, up to ${whole(context)} tokens.`;
  const padding = scene.table_rows > vocabulary ? ` (${whole(scene.table_rows - vocabulary)} more pad it)` : "";
  const values = layers.filter((layer) => layer.value_embedding).length;
  const biggest = (Object.keys(all) as Part[]).reduce((a, b) => (all[a] >= all[b] ? a : b));
  return [
    {
      from: 0,
      text: `Text comes in as tokens. There are ${whole(vocabulary)}, and the embedding has a vector of ${whole(width)} numbers for each${padding}.`,
    },
    {
      from,
      text: `${count} layers of one shape: attention lets a token read earlier ones, the MLP works on each by itself.`,
    },
    {
      from: Math.round(from + third),
      text: `Attention has ${heads} ${heads === 1 ? "head" : "heads"} of ${scene.head_width} numbers. ${windows}`,
    },
    {
      from: Math.round(from + 2 * third),
      text: values
        ? `In ${values} of ${count} layers (violet) a second table adds to what attention reads: parameters that cost hardly any time.`
        : `The MLP is wider inside: ${whole(width)} numbers become ${whole(scene.mlp_width)}, and ${whole(width)} again.`,
    },
    {
      from: HEAD,
      text: `The head makes a score for each of the ${whole(vocabulary)} tokens out of the last vector: the likelier, the higher.`,
    },
    {
      from: END,
      text: `${whole(scene.parameters)} parameters in all, ${percent(all[biggest] / scene.parameters)} of them in ${biggest === "mlp" ? "the MLPs" : nameOf(biggest, all)}. All of them were learned from text.`,
    },
  ];
}
