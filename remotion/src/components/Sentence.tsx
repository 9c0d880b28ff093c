import { color } from "../theme";
import { Text, visible } from "./Text";

const ADVANCE = 0.602;

export type Chip = { left: number; top: number; width: number; label: string };

type Place = { left: number; right: number; top: number; height: number };

/** The places of tokens in lines, in the largest of the sizes in which all stand within a place; else in the smallest. */
export function laidOut(
  tokens: readonly string[],
  place: Place,
  sizes: readonly number[],
  pitch: (fontSize: number) => number = (fontSize) => fontSize * 1.75,
): { fontSize: number; chips: Chip[] } {
  const tried = sizes.map((fontSize) => ({ fontSize, chips: inLines(tokens, place, fontSize, pitch(fontSize)) }));
  const fits = tried.find(({ fontSize, chips }) => {
    return (chips.at(-1)?.top ?? 0) + pitch(fontSize) <= place.top + place.height;
  });
  return fits ?? tried[tried.length - 1];
}

function inLines(tokens: readonly string[], { left, right, top }: Place, fontSize: number, pitch: number): Chip[] {
  let x = left;
  let y = top;
  return tokens.map((token) => {
    const label = visible(token);
    const width = [...label].length * fontSize * ADVANCE + 10;
    if (x + width > right && x > left) {
      x = left;
      y += pitch;
    }
    const chip = { left: x, top: y, width, label };
    x += width + 4;
    return chip;
  });
}

/** The text, token by token; behind each how much of the query's attention it gets. */
export function Sentence(props: Place & { tokens: string[]; query: number; weights: number[] }) {
  const { fontSize, chips } = laidOut(props.tokens, props, [20, 16, 14, 12]);
  const most = Math.max(...props.weights, 0.01);
  return (
    <g>
      {chips.map((chip, i) => {
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
