import type { ReactNode } from "react";
import { color, mono, size } from "../theme";

type Props = {
  x: number;
  y: number;
  children: ReactNode;
  fill?: string;
  fontSize?: number;
  anchor?: "start" | "middle" | "end";
  bold?: boolean;
  isMono?: boolean;
  opacity?: number;
};

/** A line of text whose vertical middle is at y. Spaces stay as they are. */
export function Text(props: Props) {
  return (
    <text
      x={props.x}
      y={props.y}
      fill={props.fill ?? color.ink}
      fontSize={props.fontSize ?? size.label}
      textAnchor={props.anchor ?? "start"}
      dominantBaseline="central"
      fontWeight={props.bold ? 700 : 400}
      fontFamily={props.isMono ? mono : undefined}
      opacity={props.opacity}
      style={{ whiteSpace: "pre" }}
    >
      {props.children}
    </text>
  );
}

/** Characters that one would not see, made visible. */
export function visible(token: string): string {
  return token
    .replace(/^ | $/g, "␣")
    .replace(/\n/g, "↵")
    .replace(/\t/g, "→")
    .replace(/\p{Cc}/gu, "·")
    .replace(/<\|(\w+)\|>/g, "‹$1›");
}

/** At most so many characters; what is cut off is an ellipsis. */
export function clipped(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}
