import type { Point, Scale } from "../numbers";
import { color, size } from "../theme";
import { Text } from "./Text";

export type Box = { left: number; right: number; top: number; bottom: number };
type Tick = { at: number; label: string };

/** The lines and labels of a chart. */
export function Axes(props: { box: Box; x: Tick[]; y: Tick[]; xLabel: string; yLabel: string }) {
  const { left, right, top, bottom } = props.box;
  return (
    <g>
      {props.y.map(({ at, label }) => (
        <g key={label}>
          <line x1={left} x2={right} y1={at} y2={at} stroke={color.line} strokeWidth={1} />
          <Text x={left - 10} y={at} anchor="end" fill={color.quiet} fontSize={size.small}>
            {label}
          </Text>
        </g>
      ))}
      {props.x.map(({ at, label }) => (
        <g key={label}>
          <line x1={at} x2={at} y1={bottom} y2={bottom + 6} stroke={color.quiet} />
          <Text x={at} y={bottom + 20} anchor="middle" fill={color.quiet} fontSize={size.small}>
            {label}
          </Text>
        </g>
      ))}
      <line x1={left} x2={right} y1={bottom} y2={bottom} stroke={color.quiet} strokeWidth={1.5} />
      <Text x={left} y={top - 22} fill={color.quiet} fontSize={size.small}>
        {props.yLabel}
      </Text>
      <Text x={right} y={bottom + 48} anchor="end" fill={color.quiet} fontSize={size.small}>
        {props.xLabel}
      </Text>
    </g>
  );
}

/** The path of a line through points. */
export function path(points: readonly Point[], x: Scale, y: Scale): string {
  return points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
}
