/**
 * The JSON that each composition draws: what `python -m nanochat_pl video NAME RUN --data-only` writes.
 * A file of another version, of another video, or with a figure missing is refused.
 */
import { z } from "zod";

export const FORMAT = "nanochat_pl.video";
export const VERSION = 2;

const point = z.tuple([z.number(), z.number()]).readonly();
const points = z.array(point);
const count = z.number().int().nonnegative();
const share = z.number().min(0).max(1);

function scene<Kind extends string, Shape extends z.ZodRawShape>(kind: Kind, shape: Shape) {
  return z.strictObject({
    format: z.literal(FORMAT),
    version: z.literal(VERSION),
    kind: z.literal(kind),
    /** Of the run or sweep. */
    name: z.string(),
    ...shape,
  });
}

export const architecture = scene("architecture", {
  architecture: z.string(),
  stage: z.string(),
  vocabulary: count,
  /** Of the embedding and of the head: the vocabulary and what pads it. */
  table_rows: count,
  /** Tokens. */
  context: count,
  width: count,
  heads: count,
  kv_heads: count,
  head_width: count,
  /** Of the MLP inside. */
  mlp_width: count,
  position: z.enum(["rope", "learned", "alibi", "none"]),
  /** The first one first. window: tokens before its own that a token sees; the others are counts of parameters. */
  layers: z.array(z.strictObject({ window: count, attention: count, mlp: count, value_embedding: count })).min(1),
  /** Parameters outside of the layers; head is 0 where it shares the embedding's table. positions: learned ones. */
  outside: z.strictObject({ embedding: count, head: count, positions: count, scalars: count }),
  parameters: count,
});

export const loss = scene("loss", {
  parameters: count.nullable(),
  /** null: not known, or the run begins with weights and was never as unsure as ln vocabulary. */
  vocabulary: count.nullable(),
  stages: z
    .array(
      z.strictObject({
        stage: z.string(),
        status: z.string(),
        steps: count,
        tokens_per_step: count.nullable(),
        seconds: z.number().nullable(),
        /** (step, nats per token); of training and of validation. */
        loss: points,
        val_loss: points,
        /** (step, bits per byte). */
        bpb: points,
        tokens_per_second: points,
        /** (step, share); of rl. */
        reward: points,
        passed: points,
        findings: z.array(z.strictObject({ step: count, kind: z.string(), message: z.string(), severity: z.string() })),
      }),
    )
    .min(1),
});

export const attention = scene("attention", {
  stage: z.string(),
  context: count,
  prompt: z.string(),
  tokens: z.array(z.string()).min(1),
  /** heads: row i of each has the i + 1 weights that token i gives to the tokens up to itself. */
  layers: z.array(z.strictObject({ window: count, heads: z.array(z.array(z.array(share))).min(1) })).min(1),
  /** Heads that do one thing most of all, with the share of their attention that goes there. */
  shown: z.array(
    z.strictObject({
      layer: count,
      head: count,
      does: z.enum(["previous", "sink", "self", "far", "broad"]),
      share: z.number(),
    }),
  ),
  next: z.array(z.strictObject({ token: z.string(), probability: share })),
});

export const scaling = scene("scaling", {
  /** What is on the vertical axis, in words. */
  metric: z.string(),
  jobs: z
    .array(
      z.strictObject({
        name: z.string(),
        /** Parameters of matrices and head, which the scaling laws refer to. */
        scaling_parameters: count,
        tokens: count,
        /** (training FLOPs, loss). */
        points,
        final: z.number(),
      }),
    )
    .min(2),
  /** What no cheaper moment of any job undercuts. */
  envelope: points,
  /** loss = floor + scale (compute / unit)^-exponent; null: `why_no_law` says why. */
  law: z
    .strictObject({
      floor: z.number(),
      scale: z.number(),
      unit: z.number(),
      exponent: z.number(),
      exponent_range: point,
      is_determined: z.boolean(),
    })
    .nullable(),
  why_no_law: z.string(),
});

export const pipeline = scene("pipeline", {
  text: z.string(),
  bytes: count,
  tokens: z.array(z.strictObject({ id: count, text: z.string() })).min(1),
  tokenizer: z.string(),
  vocabulary: count,
  /** Of one word: its parts after each merge, bytes first; empty where the tokenizer merges nothing. */
  merges: z.array(z.array(z.string())),
  row_tokens: count,
  rows_per_step: count,
  streams: count,
  buffer_documents: count,
  /** Of the batch. */
  step: count,
  /** Which of `rows` the choices fill. */
  row: count,
  /** room: tokens left in the row; waiting: lengths in the buffer, sorted; length of the piece, placed: of it. */
  choices: z.array(z.strictObject({ room: count, length: count, placed: count, waiting: z.array(count) })).min(1),
  rows: z.array(z.array(z.strictObject({ tokens: count, of: count }))).min(1),
});

export const schemas = {
  TransformerArchitecture: architecture,
  TrainingLoss: loss,
  AttentionVisualization: attention,
  ScalingLaws: scaling,
  DataPipeline: pipeline,
} as const;

export type Name = keyof typeof schemas;
export type Scene<N extends Name> = z.infer<(typeof schemas)[N]>;

/** The figures of a composition, or an error that says in a line each what is wrong with them. */
export function read<N extends Name>(name: N, content: unknown): Scene<N> {
  const result = schemas[name].safeParse(content);
  if (!result.success) {
    const faults = result.error.issues
      .slice(0, 5)
      .map((issue) => `${issue.path.join(".") || "file"}: ${issue.message}`);
    throw new Error(
      `These are not the figures that ${name} draws (${FORMAT}, version ${VERSION}). ${faults.join("; ")}`,
    );
  }
  return result.data as Scene<N>;
}
