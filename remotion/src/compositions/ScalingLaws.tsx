import { useCurrentFrame } from "remotion";
import type { Caption } from "../captions";
import { Axes, type Box, path } from "../components/Axes";
import { Stage } from "../components/Stage";
import { clipped, Text } from "../components/Text";
import { grown, passed } from "../motion";
import { logarithmic, logTicks, type Scale, raised, scientific, short, significant } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, series, size, TOP } from "../theme";

type Figures = Scene<"ScalingLaws">;
type Law = NonNullable<Figures["law"]>;

const DRAW: readonly [number, number] = [40, 170];
const LAW = 185;
const RATIOS = 280;
const END = 390;
const LEFT: Box = { left: MARGIN + 62, right: 690, top: TOP + 44, bottom: BOTTOM - 58 };
const RIGHT: Box = { left: 812, right: 1280 - MARGIN, top: TOP + 44, bottom: BOTTOM - 58 };
/** Tokens for each parameter: nanochat's, and that of Hoffmann et al. (arXiv:2203.15556), called Chinchilla. */
export const OWN_RATIO = 12;
export const CHINCHILLA_RATIO = 20;

export const frames = () => 470;

export function lossOf(law: Law, compute: number): number {
  return law.floor + law.scale * (compute / law.unit) ** -law.exponent;
}

export function Drawing({ scene }: { scene: Figures }) {
  const frame = useCurrentFrame();
  const subtitle = clipped(`${scene.name}: ${scene.jobs.length} trainings, ${scene.metric}`, 90);
  return (
    <Stage title="What size and compute buy" subtitle={subtitle} captions={captions(scene)}>
      <Compute scene={scene} frame={frame} />
      <g opacity={grown(frame, RATIOS - 20, RATIOS)}>
        <Ratios scene={scene} frame={frame} />
      </g>
      <g opacity={1 - grown(frame, RATIOS - 20, RATIOS - 5)}>
        <Sizes scene={scene} frame={frame} />
      </g>
    </Stage>
  );
}

/** A little more than the span of the values, for logarithmic axes. */
function spanOf(values: readonly number[], room: number): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const factor = Math.max(high / low, 1.05) ** room;
  return [low / factor, high * factor];
}

/** Each training's loss over what it has spent, what none undercuts, and the law. */
function Compute({ scene, frame }: { scene: Figures; frame: number }) {
  const points = scene.jobs.flatMap((job) => job.points);
  const [lowX, highX] = spanOf(
    points.map(([x]) => x),
    0.06,
  );
  const [lowY, highY] = spanOf(
    points.map(([, y]) => y),
    0.08,
  );
  const x = logarithmic([lowX, highX], [LEFT.left, LEFT.right]);
  const y = logarithmic([lowY, highY], [LEFT.bottom, LEFT.top]);
  const now = Math.exp(Math.log(lowX) + passed(frame, ...DRAW) * Math.log(highX / lowX));
  return (
    <g>
      <Axes
        box={LEFT}
        x={spread(logTicks(lowX, highX), x, 90).map((at) => ({ at: x(at), label: scientific(at) }))}
        y={spread(logTicks(lowY, highY), y, 30).map((at) => ({ at: y(at), label: significant(at, 3) }))}
        xLabel="training FLOPs"
        yLabel={scene.metric}
      />
      {scene.jobs.map((job, i) => (
        <g key={job.name}>
          <path
            d={path(
              job.points.filter(([at]) => at <= now),
              x,
              y,
            )}
            fill="none"
            stroke={series[i % series.length]}
            strokeWidth={3}
            strokeLinejoin="round"
            opacity={frame > LAW ? 0.6 : 1}
          />
        </g>
      ))}
      {scene.envelope.map(([a, b]) => (
        <circle
          key={a}
          cx={x(a)}
          cy={y(b)}
          r={6}
          fill="none"
          stroke={color.ink}
          strokeWidth={2}
          opacity={grown(frame, LAW - 10, LAW + 10)}
        />
      ))}
      {scene.law && (
        <LawLine
          law={scene.law}
          x={x}
          y={y}
          from={scene.envelope[0][0]}
          to={highX}
          shown={passed(frame, LAW, LAW + 50)}
        />
      )}
    </g>
  );
}

/** Those ticks that stand at least so many pixels apart. */
export function spread(values: readonly number[], scale: Scale, pixels: number): number[] {
  const kept: number[] = [];
  for (const value of values) {
    const before = kept.at(-1);
    if (before === undefined || Math.abs(scale(value) - scale(before)) >= pixels) {
      kept.push(value);
    }
  }
  return kept;
}

function LawLine({
  law,
  x,
  y,
  from,
  to,
  shown,
}: {
  law: Law;
  x: Scale;
  y: Scale;
  from: number;
  to: number;
  shown: number;
}) {
  const until = Math.exp(Math.log(from) + shown * Math.log(to / from));
  const places = Array.from({ length: 60 }, (_, i) => from * (until / from) ** (i / 59));
  return (
    <g opacity={shown > 0 ? 1 : 0}>
      <path
        d={path(
          places.map((at) => [at, lossOf(law, at)] as const),
          x,
          y,
        )}
        fill="none"
        stroke={color.accent}
        strokeWidth={4}
        strokeDasharray="10 8"
      />
    </g>
  );
}

/** The trainings by name, with what they came to. */
function Sizes({ scene, frame }: { scene: Figures; frame: number }) {
  const height = Math.min(48, (BOTTOM - TOP - 110) / scene.jobs.length);
  const fontSize = Math.min(size.label, height * 0.8);
  const width = RIGHT.right - RIGHT.left + 82;
  const left = RIGHT.left - 82;
  return (
    <g opacity={grown(frame, 15, 35)}>
      <rect x={left} y={TOP} width={width} height={height * scene.jobs.length + 110} rx={14} fill={color.panel} />
      <Text x={left + 52} y={TOP + 30} fill={color.quiet} fontSize={size.small}>
        parameters
      </Text>
      <Text x={left + width / 2 + 60} y={TOP + 30} fill={color.quiet} anchor="end" fontSize={size.small}>
        tokens
      </Text>
      <Text x={left + width - 22} y={TOP + 30} fill={color.quiet} anchor="end" fontSize={size.small}>
        ended at
      </Text>
      {scene.jobs.map((job, i) => {
        const y = TOP + 56 + (i + 0.5) * height;
        return (
          <g key={job.name}>
            <line x1={left + 18} x2={left + 42} y1={y} y2={y} stroke={series[i % series.length]} strokeWidth={5} />
            <Text x={left + 52} y={y} fontSize={fontSize}>
              {short(job.scaling_parameters)}
            </Text>
            <Text x={left + width / 2 + 60} y={y} anchor="end" fontSize={fontSize}>
              {short(job.tokens)}
            </Text>
            <Text
              x={left + width - 22}
              y={y}
              anchor="end"
              bold
              fontSize={fontSize}
              opacity={grown(frame, DRAW[1] - 20, DRAW[1])}
            >
              {significant(job.final, 4)}
            </Text>
          </g>
        );
      })}
      <Text x={left + 22} y={TOP + 84 + height * scene.jobs.length} fill={color.quiet} fontSize={size.small}>
        parameters: of matrices and head
      </Text>
    </g>
  );
}

/** Tokens against parameters: where the trainings are, and where two recipes would have them. */
function Ratios({ scene, frame }: { scene: Figures; frame: number }) {
  const sizes = scene.jobs.map((job) => job.scaling_parameters);
  const [lowX, highX] = spanOf(sizes, 0.15);
  const tokens = scene.jobs.map((job) => job.tokens);
  const [lowY, highY] = spanOf([...tokens, OWN_RATIO * lowX, CHINCHILLA_RATIO * highX], 0.04);
  const x = logarithmic([lowX, highX], [RIGHT.left, RIGHT.right]);
  const y = logarithmic([lowY, highY], [RIGHT.bottom, RIGHT.top]);
  return (
    <g>
      <Axes
        box={RIGHT}
        x={spread(logTicks(lowX, highX), x, 80).map((at) => ({ at: x(at), label: short(at) }))}
        y={spread(logTicks(lowY, highY), y, 40).map((at) => ({ at: y(at), label: short(at) }))}
        xLabel="parameters of matrices and head"
        yLabel="tokens trained on"
      />
      <RatioLine
        ratio={CHINCHILLA_RATIO}
        label="20 : 1, Chinchilla"
        tint={color.ink}
        x={x}
        y={y}
        span={[lowX, highX]}
        shown={grown(frame, RATIOS + 10, RATIOS + 40)}
        above
      />
      <RatioLine
        ratio={OWN_RATIO}
        label="12 : 1, nanochat"
        tint={color.accent}
        x={x}
        y={y}
        span={[lowX, highX]}
        shown={grown(frame, RATIOS + 30, RATIOS + 60)}
      />
      {scene.jobs.map((job, i) => (
        <circle
          key={job.name}
          cx={x(job.scaling_parameters)}
          cy={y(job.tokens)}
          r={8}
          fill={series[i % series.length]}
          stroke={color.ground}
          strokeWidth={2}
        />
      ))}
    </g>
  );
}

type LineProps = {
  ratio: number;
  label: string;
  tint: string;
  x: Scale;
  y: Scale;
  span: [number, number];
  shown: number;
  above?: boolean;
};

function RatioLine({ ratio, label, tint, x, y, span, shown, above }: LineProps) {
  const middle = Math.sqrt(span[0] * span[1]);
  const [x1, y1, x2, y2] = [x(span[0]), y(ratio * span[0]), x(span[1]), y(ratio * span[1])];
  const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
  const at = `translate(${x(middle)} ${y(ratio * middle)}) rotate(${angle})`;
  return (
    <g opacity={shown}>
      <line
        x1={x1}
        y1={y1}
        x2={x1 + (x2 - x1) * shown}
        y2={y1 + (y2 - y1) * shown}
        stroke={tint}
        strokeWidth={3}
        strokeDasharray="8 6"
      />
      <g transform={at}>
        <Text x={0} y={above ? -18 : 20} anchor="middle" fill={tint} fontSize={size.small}>
          {label}
        </Text>
      </g>
    </g>
  );
}

/** What the best training of the smallest size and that of the largest ended at. */
export function ofSizes(jobs: Figures["jobs"]): string {
  const sizes = jobs.map((job) => job.scaling_parameters);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  if (least === most) {
    return "All have one size, and differ in other settings.";
  }
  const best = (of: number) => Math.min(...jobs.filter((job) => job.scaling_parameters === of).map((job) => job.final));
  return (
    `A larger model pays more for each token. Here the smallest, of ${short(least)} parameters, ended at ` +
    `${significant(best(least), 4)}, the largest, of ${short(most)}, at ${significant(best(most), 4)}.`
  );
}

function captions(scene: Figures): Caption[] {
  const { law } = scene;
  const ratios = scene.jobs.map((job) => job.tokens / job.scaling_parameters);
  const said = law
    ? `The rings are what no cheaper moment undercuts. A law through them: loss = ${significant(law.floor, 3)} + ` +
      `${significant(law.scale, 3)} × (C / ${scientific(law.unit)})${raised(`−${significant(law.exponent, 3)}`)}.` +
      (law.is_determined ? "" : " So few points do not determine it.")
    : `The rings are what no cheaper moment undercuts. ${scene.why_no_law}`;
  return [
    { from: 0, text: "Each line is one training. It moves right as it spends compute, and down as it learns." },
    {
      from: 110,
      text: ofSizes(scene.jobs),
    },
    { from: LAW, text: said },
    {
      from: RATIOS,
      text: "For given compute, how large a model on how many tokens? Hoffmann et al. found about 20 tokens a parameter, nanochat takes 12.",
    },
    {
      from: END,
      text:
        `These trainings have ${significant(Math.min(...ratios), 2)} to ${significant(Math.max(...ratios), 2)} tokens a parameter. ` +
        "Below the lines a smaller model on more text would be better for the same compute, above them a larger one.",
    },
  ];
}
