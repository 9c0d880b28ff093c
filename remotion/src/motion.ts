import { Easing, interpolate } from "remotion";

/** 0 before `start`, 1 from `end` on, smooth between. */
export function grown(frame: number, start: number, end: number): number {
  return interpolate(frame, [start, end], [0, 1], {
    extrapolateLeft: "clamp",
    extrapolateRight: "clamp",
    easing: Easing.inOut(Easing.cubic),
  });
}

/** The same, evenly: for what is read off while it moves. */
export function passed(frame: number, start: number, end: number): number {
  return Math.min(1, Math.max(0, (frame - start) / (end - start)));
}
