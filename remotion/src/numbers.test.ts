import { describe, expect, it } from "vitest";
import {
  lastBefore,
  linear,
  logarithmic,
  logTicks,
  percent,
  scientific,
  short,
  significant,
  ticks,
  whole,
} from "./numbers";

describe("numbers as text", () => {
  it("groups thousands", () => {
    expect([0, 999, 1000, 1310850].map(whole)).toEqual(["0", "999", "1,000", "1,310,850"]);
  });
  it("is short", () => {
    expect([12, 1024, 1310850, 2.5e9].map(short)).toEqual(["12", "1.02k", "1.31M", "2.5B"]);
    expect([0.61744, 4].map((value) => significant(value, 3))).toEqual(["0.617", "4"]);
    expect([1e12, 2.5e11, 3e-5].map(scientific)).toEqual(["10¹²", "2.5 · 10¹¹", "3 · 10⁻⁵"]);
    expect([0.336, 0, 0.001].map(percent)).toEqual(["34%", "0%", "<1%"]);
  });
});

describe("scales", () => {
  it("maps both ends, also of logarithms", () => {
    expect([0, 5, 10].map(linear([0, 10], [100, 200]))).toEqual([100, 150, 200]);
    expect(logarithmic([1, 100], [0, 10])(10)).toBeCloseTo(5);
  });
  it("has round ticks within its span", () => {
    expect(ticks(0, 6.2, 5)).toEqual([0, 2, 4, 6]);
    expect(logTicks(0.6, 1.5)).toEqual([0.6, 0.7, 0.8, 0.9, 1, 1.5]);
    expect(logTicks(1e5, 3e9)).toEqual([1e5, 1e6, 1e7, 1e8, 1e9]);
  });
});

it("finds the last point before a place", () => {
  expect(
    lastBefore(
      [
        [1, 5],
        [4, 6],
      ],
      3,
    ),
  ).toEqual([1, 5]);
  expect(lastBefore([[1, 5]], 0)).toBeUndefined();
});
