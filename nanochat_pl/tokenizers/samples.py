"""Small texts of different kinds, on which tokenizers are compared."""

PROSE = """\
The ferry left the island a little after six, when the fog had begun to thin. Nobody on deck spoke much. A woman \
in a long raincoat counted the crates of apples once more, although she'd counted them twice already, and her \
brother leaned against the rail and watched the lighthouse grow smaller. "It won't sell at that price," he said \
at last. "Last year they paid us half." She shrugged. The harbour on the other side was still asleep; only the \
baker's windows were lit, and the smell of bread, warm and slightly burnt, came over the water long before the \
first houses could be made out.

Historians disagree about when the crossing was first used. What's certain is that by the middle of the \
eighteenth century it carried salt, wool and mail, and that the bell which hangs beside the pier was cast from \
coins collected in the surrounding villages.
"""

CODE = '''\
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A closed interval of whole numbers."""

    low: int
    high: int

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high

    def overlaps(self, other: "Interval") -> bool:
        return self.low <= other.high and other.low <= self.high


def merge(intervals: list[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for item in sorted(intervals, key=lambda i: i.low):
        if merged and merged[-1].overlaps(item):
            merged[-1] = Interval(merged[-1].low, max(merged[-1].high, item.high))
        else:
            merged.append(item)  # nothing to join it with
    return merged


if __name__ == "__main__":
    print(merge([Interval(1, 4), Interval(8, 10), Interval(3, 6)]))
'''

NUMBERS = """\
date,station,temperature_c,pressure_hpa,rain_mm
2021-03-14,1042,7.25,1013.8,0.0
2021-03-15,1042,9.80,1009.4,12.6
2021-03-16,1043,-1.50,998.17,3.05
Total of 365 days: 48,210.75 (1.6% above 47,451.53); 3/8 = 0.375, 2^20 = 1048576, pi is about 3.14159265.
1 + 1 = 2, 12 * 12 = 144, 1000 - 7 = 993, 17 / 4 = 4.25
"""

GERMAN = """\
Früh am Morgen, als der Nebel noch über den Wiesen lag, öffnete die Gärtnerin das schwere Tor. „Heute wird es heiß“, \
sagte sie und stellte die Gießkanne neben die Rosen. Fünf Äpfel waren in der Nacht vom Baum gefallen; einen davon aß \
sie gleich, die übrigen legte sie für die Kinder auf die Bank. Im Gewächshaus summten schon die Bienen, und aus der \
Küche hörte man jemanden leise ein altes Lied singen, dessen Strophen keiner mehr vollständig kannte.
"""

SAMPLES = {"English prose": PROSE, "Python code": CODE, "numbers": NUMBERS, "German": GERMAN}
"""Kind of text -> the sample, written for this purpose."""
