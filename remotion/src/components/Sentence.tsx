import { color } from "../theme";
import { Text, visible } from "./Text";

const ADVANCE = 0.602;

export type Chip = { left: number; top: number; width: number; label: string };

/** Places of the tokens in lines that end at `right`. */
export function laidOut(tokens: readonly string[], left: number, right: number, top: number, fontSize: number): Chip[] {
  let x = left;
  let y = top;
  return tokens.map((token) => {
    const label = visible(token);
    const width = [...label].length * fontSize * ADVANCE + 10;
    if (x + width > right && x > left) {
      x = left;
      y += fontSize * 1.75;
    }
    const chip = { left: x, top: y, width, label };
    x += width + 4;
    return chip;
  });
}

/** The text, token by token; behind each how much of the query's attention it gets. */
export function Sentence(props: {
  left: number;
  right: number;
  top: number;
  tokens: string[];
  query: number;
  weights: number[];
}) {
  const fontSize = props.tokens.length > 26 ? 16 : 20;
  const most = Math.max(...props.weights, 0.01);
  return (
    <g>
      {laidOut(props.tokens, props.left, props.right, props.top, fontSize).map((chip, i) => {
        const weight = props.weights[i];
        const isQuery = i === props.query;
        return (
          <g key={i} opacity={i > props.query ? 0.35 : 1}>
            <rect x={chip.left} y={chip.top} width={chip.width} height={fontSize * 1.5} rx={5} fill={color.panel} />
            {weight !== undefined && (
              <rect
                x={chip.left}
                y={chip.top}
                width={chip.width}
                height={fontSize * 1.5}
                rx={5}
                fill={color.accent}
                opacity={(0.85 * weight) / most}
              />
            )}
            {isQuery && (
              <rect
                x={chip.left}
                y={chip.top}
                width={chip.width}
                height={fontSize * 1.5}
                rx={5}
                fill="none"
                stroke={color.ink}
                strokeWidth={2.5}
              />
            )}
            <Text
              x={chip.left + 5}
              y={chip.top + fontSize * 0.78}
              isMono
              fontSize={fontSize}
              fill={weight !== undefined && weight > 0.55 * most ? color.ground : color.ink}
            >
              {chip.label}
            </Text>
          </g>
        );
      })}
    </g>
  );
}
