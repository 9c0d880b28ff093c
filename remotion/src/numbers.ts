/** How numbers are written, and where they stand on an axis. */

export type Scale = (value: number) => number;
export type Point = readonly [number, number];

/** 1310850 -> "1,310,850". */
export function whole(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** Short, for axes and narrow places: 1310850 -> "1.31M". */
export function short(value: number): string {
  for (const [unit, letter] of [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (Math.abs(value) >= unit) {
      return `${significant(value / unit, 3)}${letter}`;
    }
  }
  return significant(value, 3);
}

/** So many significant digits, without zeros at the end: 0.61744 -> "0.617". */
export function significant(value: number, digits: number): string {
  return Number(value.toPrecision(digits)).toString();
}

/** 2.5e12 -> "2.5 · 10¹²". */
export function scientific(value: number): string {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const power = raised(String(Number(exponent)));
  return mantissa === "1.0" ? `10${power}` : `${Number(mantissa)} · 10${power}`;
}

/** A number as an exponent: "−0.5" -> "⁻⁰·⁵". */
export function raised(number: string): string {
  return number.replace(/[\d.−-]/g, (sign) => ({ ".": "·", "−": "⁻", "-": "⁻" })[sign] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)]);
}

/** 0.336 -> "34%"; what is more than nothing is not 0%. */
export function percent(share: number): string {
  return share > 0 && share < 0.005 ? "<1%" : `${Math.round(100 * share)}%`;
}

export function linear(from: Point, to: Point): Scale {
  const slope = (to[1] - to[0]) / (from[1] - from[0] || 1);
  return (value) => to[0] + (value - from[0]) * slope;
}

export function logarithmic(from: Point, to: Point): Scale {
  const inner = linear([Math.log(from[0]), Math.log(from[1])], to);
  return (value) => inner(Math.log(value));
}

/** Round places on a linear axis, about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((width) => width >= raw * 0.999) ?? unit;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Round places on a logarithmic axis: powers of ten, and 2 and 5 times these where there are few. */
export function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const found: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(3));
      if (value >= low * 0.999 && value <= high * 1.001) {
        found.push(value);
      }
    }
  }
  return found;
}

/** The last point at or before x; undefined before the first. */
export function lastBefore(points: readonly Point[], x: number): Point | undefined {
  let found: Point | undefined;
  for (const point of points) {
    if (point[0] > x) {
      break;
    }
    found = point;
  }
  return found;
}
