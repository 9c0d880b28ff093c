import { useCurrentFrame } from "remotion";
import type { Caption } from "../captions";
import { Axes, type Box, path } from "../components/Axes";
import { Stage } from "../components/Stage";
import { clipped, Text } from "../components/Text";
import { grown, passed } from "../motion";
import { lastBefore, linear, percent, type Point, short, significant, ticks, whole } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, MARGIN, size, stageColor, TOP } from "../theme";

type Figures = Scene<"TrainingLoss">;
type StageFigures = Figures["stages"][number];

const PLAY: readonly [number, number] = [50, 400];
const PLOT: Box = { left: MARGIN + 56, right: 850, top: TOP + 44, bottom: BOTTOM - 46 };
const SIDE = 930;
const LEAST_SHARE = 0.14;
const FINDING_FRAMES = 50;

export const frames = () => 460;

type Segment = { figures: StageFigures; left: number; right: number; start: number; end: number };

/** Each stage's part of the axis and of the time: by its steps, but none too narrow to be seen. */
export function segments(stages: readonly StageFigures[], box: Box): Segment[] {
  const total = stages.reduce((sum, stage) => sum + stage.steps, 0);
  const wished = stages.map((stage) => Math.max(LEAST_SHARE, stage.steps / total));
  const sum = wished.reduce((a, b) => a + b, 0);
  let share = 0;
  return stages.map((figures, i) => {
    const from = share;
    share += wished[i] / sum;
    const x = linear([0, 1], [box.left, box.right]);
    const t = linear([0, 1], PLAY);
    return { figures, left: x(from), right: x(share), start: t(from), end: t(share) };
  });
}

export function Drawing({ scene }: { scene: Figures }) {
  const frame = useCurrentFrame();
  const parts = segments(scene.stages, PLOT);
  const losses = scene.stages.flatMap((stage) => [...stage.loss, ...stage.val_loss].map(([, y]) => y));
  const highest = Math.max(...losses, 1) * 1.05;
  const y = linear([0, highest], [PLOT.bottom, PLOT.top]);
  const shownTicks = losses.length ? ticks(0, highest, 5) : [];
  const now = parts.find((part) => frame < part.end) ?? parts[parts.length - 1];
  const step = Math.round(passed(frame, now.start, now.end) * now.figures.steps);
  return (
    <Stage title="How the loss falls" subtitle={subtitle(scene)} captions={captions(scene, parts)}>
      <g opacity={grown(frame, 0, 25)}>
        <Axes
          box={PLOT}
          x={[]}
          y={shownTicks.map((value) => ({ at: y(value), label: significant(value, 3) }))}
          xLabel=""
          yLabel={losses.length ? "loss, nats per token" : "share"}
        />
        <Legend hasFindings={scene.stages.some((stage) => stage.findings.length > 0)} />
        {parts.map((part) => (
          <SegmentFrame key={part.figures.stage} part={part} />
        ))}
      </g>
      {parts.map((part) => (
        <Curves key={part.figures.stage} part={part} y={y} frame={frame} />
      ))}
      <Findings parts={parts} now={now} step={step} y={y} />
      <Counters scene={scene} stage={now.figures} step={step} opacity={grown(frame, 10, 35)} />
    </Stage>
  );
}

function subtitle(scene: Figures): string {
  const names = scene.stages.map((stage) => stage.stage).join(", ");
  const parameters = scene.parameters ? `, ${short(scene.parameters)} parameters` : "";
  return clipped(`${scene.name}: ${names}${parameters}`, 90);
}

function Legend({ hasFindings }: { hasFindings: boolean }) {
  const y = PLOT.top - 22;
  return (
    <g>
      <line x1={PLOT.right - 252} x2={PLOT.right - 222} y1={y} y2={y} stroke={color.quiet} strokeWidth={3} />
      <Text x={PLOT.right - 214} y={y} fill={color.quiet} fontSize={size.small}>
        training
      </Text>
      {hasFindings && (
        <g>
          <path d={`M${PLOT.right - 366} ${y + 7}l-8 -15h16z`} fill={color.accent} />
          <Text x={PLOT.right - 352} y={y} fill={color.quiet} fontSize={size.small}>
            finding
          </Text>
        </g>
      )}
      <circle cx={PLOT.right - 100} cy={y} r={6} stroke={color.ink} strokeWidth={2.5} fill={color.ground} />
      <Text x={PLOT.right - 86} y={y} fill={color.quiet} fontSize={size.small}>
        held out
      </Text>
    </g>
  );
}

function SegmentFrame({ part }: { part: Segment }) {
  const middle = (part.left + part.right) / 2;
  const tint = stageColor[part.figures.stage] ?? color.ink;
  return (
    <g>
      <rect x={part.left + 2} y={PLOT.bottom + 2} width={part.right - part.left - 4} height={5} fill={tint} />
      <Text x={middle} y={PLOT.bottom + 24} anchor="middle" fill={tint} bold>
        {part.figures.stage}
      </Text>
      <Text x={middle} y={PLOT.bottom + 49} anchor="middle" fill={color.quiet} fontSize={size.small}>
        {whole(part.figures.steps)} {part.right - part.left > 120 ? "steps" : ""}
      </Text>
      {part.figures.reward.length > 0 && (
        <Text x={part.right + 64} y={PLOT.top - 24} anchor="end" fill={tint} fontSize={size.small}>
          reward
        </Text>
      )}
      {part.figures.reward.length > 0 &&
        [0, 0.5, 1].map((share) => (
          <Text
            key={share}
            x={part.right + 8}
            y={PLOT.bottom + (PLOT.top - PLOT.bottom) * share}
            fill={tint}
            fontSize={size.small}
          >
            {percent(share)}
          </Text>
        ))}
      <line x1={part.right} x2={part.right} y1={PLOT.top} y2={PLOT.bottom} stroke={color.line} strokeDasharray="3 5" />
    </g>
  );
}

function Curves({ part, y, frame }: { part: Segment; y: (value: number) => number; frame: number }) {
  const { figures } = part;
  const x = linear([0, figures.steps], [part.left + 4, part.right - 4]);
  const until = passed(frame, part.start, part.end) * figures.steps;
  const tint = stageColor[figures.stage] ?? color.ink;
  const reward = linear([0, 1], [PLOT.bottom, PLOT.top]);
  const upTo = (points: readonly Point[]) => points.filter(([at]) => at <= until && frame >= part.start);
  return (
    <g fill="none">
      <path d={path(upTo(figures.loss), x, y)} stroke={tint} strokeWidth={3} strokeLinejoin="round" />
      {upTo(figures.val_loss).map(([at, value]) => (
        <circle key={at} cx={x(at)} cy={y(value)} r={6} stroke={color.ink} strokeWidth={2.5} fill={color.ground} />
      ))}
      <path d={path(upTo(figures.reward), x, reward)} stroke={tint} strokeWidth={3} strokeLinejoin="round" />
      {upTo(figures.passed).map(([at, value]) => (
        <circle key={at} cx={x(at)} cy={reward(value)} r={6} stroke={color.ink} strokeWidth={2.5} fill={color.ground} />
      ))}
    </g>
  );
}

/** What the monitor has found so far: a mark at each place, the latest in words. */
function Findings({
  parts,
  now,
  step,
  y,
}: {
  parts: Segment[];
  now: Segment;
  step: number;
  y: (value: number) => number;
}) {
  const played = parts.slice(0, parts.indexOf(now) + 1);
  const latest = now.figures.findings.filter((finding) => finding.step <= step).at(-1);
  const frames = latest && ((step - latest.step) / now.figures.steps) * (now.end - now.start);
  return (
    <g>
      {played.flatMap((part) =>
        part.figures.findings
          .filter((finding) => part !== now || finding.step <= step)
          .map((finding, i) => {
            const x = linear([0, part.figures.steps], [part.left + 4, part.right - 4])(finding.step);
            const top = y(lastBefore(part.figures.loss, finding.step)?.[1] ?? 0) - 23;
            return <path key={`${part.figures.stage} ${i}`} d={`M${x} ${top + 15}l-8 -15h16z`} fill={color.accent} />;
          }),
      )}
      {latest && frames !== undefined && frames <= FINDING_FRAMES && (
        <g>
          <rect
            x={PLOT.left + 90}
            y={PLOT.top - 4}
            width={PLOT.right - PLOT.left - 90}
            height={40}
            rx={8}
            fill={color.panel}
            stroke={color.accent}
          />
          <Text x={PLOT.left + 106} y={PLOT.top + 16} fontSize={size.small} fill={color.accent}>
            {clipped(`step ${whole(latest.step)}: ${latest.message}`, 66)}
          </Text>
        </g>
      )}
    </g>
  );
}

function Counters(props: { scene: Figures; stage: StageFigures; step: number; opacity: number }) {
  const { stage, step } = props;
  const loss = lastBefore(stage.loss, step)?.[1];
  const bpb = lastBefore(stage.bpb, step)?.[1];
  const speed = lastBefore(stage.tokens_per_second, step)?.[1];
  const reward = lastBefore(stage.reward, step)?.[1];
  const right = lastBefore(stage.passed, step)?.[1];
  const rows: [string, string][] = [["step", `${whole(step)} of ${whole(stage.steps)}`]];
  if (stage.tokens_per_step) {
    rows.push(["tokens read", whole(step * stage.tokens_per_step)]);
  }
  if (loss !== undefined) {
    rows.push(["loss", significant(loss, 3)], ["as unsure as among", `${unsure(Math.exp(loss))} tokens`]);
  }
  if (bpb !== undefined) {
    rows.push(["bits per byte", bpb.toFixed(3)]);
  }
  if (reward !== undefined) {
    rows.push(["reward", percent(reward)]);
  }
  if (right !== undefined) {
    rows.push(["right at once", percent(right)]);
  }
  if (speed !== undefined) {
    rows.push(["tokens a second", whole(speed)]);
  }
  return (
    <g opacity={props.opacity}>
      <rect x={SIDE} y={TOP} width={1280 - MARGIN - SIDE} height={BOTTOM - TOP} rx={14} fill={color.panel} />
      <Text x={SIDE + 22} y={TOP + 32} bold fontSize={28} fill={stageColor[stage.stage] ?? color.ink}>
        {stage.stage}
      </Text>
      {rows.map(([label, value], i) => (
        <g key={label}>
          <Text x={SIDE + 22} y={TOP + 76 + i * 56} fill={color.quiet} fontSize={size.small}>
            {label}
          </Text>
          <Text x={SIDE + 22} y={TOP + 102 + i * 56} fontSize={28} bold>
            {value}
          </Text>
        </g>
      ))}
    </g>
  );
}

/** How many tokens, with two places where there are few. */
function unsure(count: number): string {
  return count < 10 ? count.toFixed(2) : significant(count, 3);
}

const SAID: Record<string, string> = {
  base: "base: it reads text and guesses each next token. The loss says how much the right one surprised it.",
  mid: "mid: the same on conversations, tool calls and multiple choice.",
  sft: "sft: only what the assistant says counts now, and that can be known almost surely.",
  rl: "rl: it answers by itself, and answers that are right become likelier. What counts is the reward.",
};

function captions(scene: Figures, parts: Segment[]): Caption[] {
  const first = scene.vocabulary
    ? `Untrained, each of the ${whole(scene.vocabulary)} tokens is as likely as any other: a loss of ` +
      `ln ${whole(scene.vocabulary)} = ${Math.log(scene.vocabulary).toFixed(2)} nats.`
    : "Each step, the model guesses the next token everywhere in a batch, and is changed to guess better.";
  const said = parts.map((part) => ({
    from: Math.round(part.start),
    text: SAID[part.figures.stage] ?? part.figures.stage,
  }));
  const last = ending(scene.stages);
  return [{ from: 0, text: first }, ...said, ...(last ? [{ from: PLAY[1] + 5, text: last }] : [])];
}

/** Of the stages that read text: how many tokens, and in what time, where that is known of each. */
export function ending(stages: readonly StageFigures[]): string {
  const reading = stages.filter((stage) => stage.tokens_per_step);
  const tokens = reading.reduce((sum, stage) => sum + (stage.tokens_per_step ?? 0) * stage.steps, 0);
  const seconds = reading.reduce((sum, stage) => sum + (stage.seconds ?? Number.NaN), 0);
  const time = Number.isNaN(seconds) ? "" : ` in ${duration(seconds)}`;
  const base = stages[0].bpb.at(-1);
  const bits = base ? `${stages[0].stage} ended at ${base[1].toFixed(3)} bits per byte. ` : "";
  const names = reading.map((stage) => stage.stage).join(", ");
  return bits + (tokens ? `${short(tokens)} tokens were read${time} (${names}).` : "");
}

export function duration(seconds: number): string {
  if (seconds < 90) {
    return `${Math.round(seconds)} seconds`;
  }
  const minutes = seconds / 60;
  return minutes < 90 ? `${Math.round(minutes)} minutes` : `${significant(minutes / 60, 3)} hours`;
}
