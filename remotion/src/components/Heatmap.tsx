import { useLayoutEffect, useRef } from "react";
import { grown } from "../motion";
import type { Scene } from "../schema";
import { color, size } from "../theme";
import { clipped, Text, visible } from "./Text";

type Weights = readonly (readonly number[])[];
type Map = { weights: Weights; window: number; rows: number };

/** The colour of a weight: roots make small ones visible. */
function tint(weight: number): string {
  const t = Math.sqrt(Math.min(1, weight));
  const mix = (from: number, to: number) => Math.round(from + (to - from) * t);
  return `rgb(${mix(22, 255)},${mix(32, 196)},${mix(58, 96)})`;
}

/** The weights as pixels: squares on a canvas, since a model may have hundreds of heads. */
function Pixels({ weights, window, rows, side }: Map & { side: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) {
      return;
    }
    context.clearRect(0, 0, side, side);
    const cell = side / weights.length;
    const gap = cell > 6 ? 1 : 0;
    weights.slice(0, rows).forEach((row, i) => {
      row.forEach((weight, j) => {
        context.fillStyle = i - j > window ? "#05080f" : tint(weight);
        context.fillRect(j * cell, i * cell, cell - gap, cell - gap);
      });
    });
  }, [weights, window, rows, side]);
  return <canvas ref={canvas} width={side} height={side} style={{ display: "block" }} />;
}

type Props = Map & {
  left: number;
  top: number;
  side: number;
  tokens: readonly string[];
  query: number;
  markColumn?: number;
};

/** One head: a row a token, a column what it looks at. */
export function Heatmap({ left, top, side, tokens, query, markColumn, ...map }: Props) {
  const cell = side / tokens.length;
  const fontSize = Math.min(size.small, cell * 0.82);
  const isLabelled = fontSize >= 14;
  return (
    <g>
      <rect x={left - 1} y={top - 1} width={side + 1} height={side + 1} fill="none" stroke={color.line} />
      <foreignObject x={left} y={top} width={side} height={side}>
        <Pixels {...map} side={side} />
      </foreignObject>
      {tokens.map((token, i) =>
        isLabelled || i === query ? (
          <Text
            key={i}
            x={left - 10}
            y={top + (i + 0.5) * cell}
            anchor="end"
            isMono
            fontSize={isLabelled ? fontSize : 16}
            fill={i === query ? color.accent : color.quiet}
            opacity={i < map.rows ? 1 : 0.3}
          >
            {clipped(visible(token), 9)}
          </Text>
        ) : null,
      )}
      <rect
        x={left}
        y={top + query * cell}
        width={(query + 1) * cell}
        height={cell - 1}
        fill="none"
        stroke={color.ink}
        strokeWidth={2}
      />
      {markColumn !== undefined && (
        <rect
          x={left + markColumn * cell - 1}
          y={top}
          width={cell}
          height={side}
          fill="none"
          stroke={color.accent}
          strokeWidth={3}
        />
      )}
    </g>
  );
}

type AllProps = {
  left: number;
  right: number;
  top: number;
  bottom: number;
  scene: Scene<"AttentionVisualization">;
  current: { layer: number; head: number };
  frame: number;
};

/** Every head of every layer, small. */
export function AllHeads({ left, right, top, bottom, scene, current, frame }: AllProps) {
  const heads = Math.max(...scene.layers.map((layer) => layer.heads.length));
  const labels = 110;
  const pitch = Math.min(96, (right - left - labels) / heads, (bottom - top - 26) / scene.layers.length);
  const side = Math.max(3, Math.floor(pitch - Math.min(8, pitch / 6)));
  const first = bottom - pitch * scene.layers.length;
  return (
    <g>
      <Text x={left} y={first - 18} fill={color.quiet} fontSize={size.small}>
        all heads, a row a layer
      </Text>
      {scene.layers.map((layer, i) => (
        <g key={i} opacity={grown(frame, 20 + i, 40 + i)}>
          {pitch >= 22 && (
            <Text x={left} y={first + (i + 0.5) * pitch - 3} fill={color.quiet} fontSize={size.small}>
              {`layer ${i + 1}`}
            </Text>
          )}
          {layer.heads.map((weights, j) => {
            const isCurrent = i === current.layer && j === current.head;
            const x = left + labels + j * pitch;
            const y = first + i * pitch;
            return (
              <g key={j}>
                <foreignObject x={x} y={y} width={side} height={side}>
                  <Pixels weights={weights} window={layer.window} rows={weights.length} side={side} />
                </foreignObject>
                <rect
                  x={x - 2}
                  y={y - 2}
                  width={side + 4}
                  height={side + 4}
                  fill="none"
                  stroke={isCurrent ? color.ink : color.line}
                  strokeWidth={isCurrent ? 3 : 1}
                />
              </g>
            );
          })}
        </g>
      ))}
    </g>
  );
}
