/** Colours, type and the places on the canvas. Sizes are chosen to be read at half of the canvas, too. */

export const WIDTH = 1280;
export const HEIGHT = 720;
export const FPS = 30;

export const MARGIN = 56;
/** Between the title and the captions. */
export const TOP = 136;
export const BOTTOM = 592;

export const color = {
  ground: "#0d1424",
  panel: "#16203a",
  line: "#33415f",
  ink: "#f2f5fb",
  quiet: "#a9b8d4",
  accent: "#ffb454",
} as const;

export const role = {
  embedding: "#5cc8ff",
  attention: "#ffb454",
  mlp: "#7ee787",
  value_embedding: "#c792ea",
  head: "#ff7b9c",
  positions: "#5eead4",
  scalars: "#a9b8d4",
} as const;

export const stageColor: Record<string, string> = {
  base: "#5cc8ff",
  mid: "#c792ea",
  sft: "#7ee787",
  rl: "#ffb454",
};

/** Neighbours differ in hue. */
export const series = ["#5cc8ff", "#ffb454", "#7ee787", "#c792ea", "#ff7b9c", "#5eead4", "#f9e2af", "#8aa2ff"];

/** Arial and Liberation Sans have the same widths: a text that fits here fits everywhere. */
export const sans = '"Liberation Sans", Arial, Helvetica, sans-serif';
export const mono = '"DejaVu Sans Mono", Menlo, monospace';

export const size = { title: 42, subtitle: 24, caption: 28, label: 22, small: 20 } as const;
