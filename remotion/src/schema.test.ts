import { describe, expect, it } from "vitest";
import * as Architecture from "./compositions/TransformerArchitecture";
import * as Attention from "./compositions/AttentionVisualization";
import * as Loss from "./compositions/TrainingLoss";
import * as Pipeline from "./compositions/DataPipeline";
import * as Scaling from "./compositions/ScalingLaws";
import architecture from "./samples/architecture.json";
import attention from "./samples/attention.json";
import loss from "./samples/loss.json";
import pipeline from "./samples/pipeline.json";
import scaling from "./samples/scaling.json";
import { asWebVTT } from "./captions";
import { laidOut } from "./components/Sentence";
import { read } from "./schema";

describe("the schema", () => {
  it("takes the samples", () => {
    expect(read("TransformerArchitecture", architecture).layers).toHaveLength(4);
    expect(read("TrainingLoss", loss).stages[0].stage).toBe("base");
    expect(read("AttentionVisualization", attention).layers).toHaveLength(4);
    expect(read("ScalingLaws", scaling).jobs.length).toBeGreaterThan(1);
    expect(read("DataPipeline", pipeline).choices[0].room).toBe(129);
  });
  it("refuses another version, another video, a figure that is missing, and one too many", () => {
    expect(() => read("TrainingLoss", { ...loss, version: 1 })).toThrow(/TrainingLoss.*version/);
    expect(() => read("TrainingLoss", scaling)).toThrow(/kind/);
    const { vocabulary: _, ...lacking } = loss;
    expect(() => read("TrainingLoss", lacking)).toThrow(/vocabulary/);
    expect(() => read("TrainingLoss", { ...loss, more: 1 })).toThrow(/more/);
  });
});

it("writes captions as subtitles, one after the other", () => {
  const captions = [
    { from: 0, text: "a <|bos|> & more" },
    { from: 45, text: "two\n\nlines" },
  ];
  expect(asWebVTT(captions, 1830, 30)).toBe(
    "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt;|bos|&gt; &amp; more\n\n00:00:01.500 --> 00:01:01.000\ntwo lines\n",
  );
});

describe("what is computed from the figures", () => {
  it("counts each parameter once", () => {
    const scene = read("TransformerArchitecture", architecture);
    const sum = Object.values(Architecture.totals(scene)).reduce((a, b) => a + b, 0);
    expect(sum).toBe(scene.parameters);
  });
  it("gives every stage a part of the axis, side by side, and none too little", () => {
    const { stages } = read("TrainingLoss", loss);
    const parts = Loss.segments(stages, { left: 0, right: 1000, top: 0, bottom: 1 });
    expect(parts[0].left).toBe(0);
    expect(parts.at(-1)?.right).toBeCloseTo(1000);
    for (const [i, part] of parts.entries()) {
      expect(part.right - part.left).toBeGreaterThan(60);
      expect(part.left).toBeCloseTo(i ? parts[i - 1].right : 0);
    }
  });
  it("keeps tokens within their place, smaller where they are many", () => {
    const place = { left: 10, right: 500, top: 20, height: 120 };
    const sizes = [20, 16, 12];
    expect(laidOut(["one", " two"], place, sizes).fontSize).toBe(20);
    const { fontSize, chips } = laidOut(Array(30).fill(" token"), place, sizes);
    expect(fontSize).toBeLessThan(20);
    expect(Math.max(...chips.map((chip) => chip.left + chip.width))).toBeLessThanOrEqual(500);
    expect(Math.max(...chips.map((chip) => chip.top + fontSize * 1.5))).toBeLessThanOrEqual(140);
  });
  it("follows the law", () => {
    const law = {
      floor: 0.5,
      scale: 2,
      unit: 100,
      exponent: 0.5,
      exponent_range: [0, 1] as const,
      is_determined: true,
    };
    expect(Scaling.lossOf(law, 400)).toBeCloseTo(1.5);
  });
  it("tells the time of the stages that read text, where all of it is known", () => {
    const [base, ...others] = read("TrainingLoss", loss).stages;
    const rl = { ...base, stage: "rl", bpb: [], tokens_per_step: null, seconds: 7 };
    const run = { ...base, bpb: [], steps: 10, tokens_per_step: 100, seconds: 60 };
    expect(Loss.ending([run, rl])).toBe("1k tokens were read in 60 seconds (base).");
    expect(Loss.ending([run, { ...run, stage: "mid", seconds: null }])).toBe("2k tokens were read (base, mid).");
    expect(Loss.ending([rl])).toBe("");
    expect(Loss.ending([base, ...others])).toContain("bits per byte");
  });
  it("says of two sizes what they ended at, not what one would expect", () => {
    const [job] = read("ScalingLaws", scaling).jobs;
    const jobs = [1e6, 4e6, 4e6].map((scaling_parameters, i) => ({ ...job, scaling_parameters, final: 1 + i }));
    expect(Scaling.ofSizes(jobs)).toContain("1M parameters, ended at 1, the largest, of 4M, at 2.");
    expect(Scaling.ofSizes(jobs.slice(1))).toContain("All have one size");
  });
  it("spends time on every part", () => {
    const scene = read("DataPipeline", pipeline);
    const parts = Object.values(Pipeline.parts(scene));
    expect(parts.every(([from, to]) => to > from)).toBe(true);
    expect(Pipeline.frames(scene)).toBe(parts.at(-1)?.[1]);
    expect(Pipeline.parts({ ...scene, merges: [] }).merge).toEqual([80, 80]);
    expect(Attention.frames(read("AttentionVisualization", attention))).toBeGreaterThan(300);
  });
});
