/** What a video says, in words: the captions take the place of a voice. */

export type Caption = { from: number; text: string };

/** The caption that stands at a frame; undefined before the first. */
export function captionAt(captions: readonly Caption[], frame: number): Caption | undefined {
  return captions.filter((caption) => caption.from <= frame).at(-1);
}

/** The captions as a file of subtitles (WebVTT, https://www.w3.org/TR/webvtt1/); the last stands until `end`. */
export function asWebVTT(captions: readonly Caption[], end: number, fps: number): string {
  const cues = captions.map(({ from, text }, i) => {
    const until = captions[i + 1]?.from ?? end;
    return `${clock(from / fps)} --> ${clock(until / fps)}\n${escaped(text)}\n`;
  });
  return ["WEBVTT\n", ...cues].join("\n");
}

/** 75.5 -> "00:01:15.500". */
function clock(seconds: number): string {
  return new Date(Math.round(1000 * seconds)).toISOString().slice(11, -1);
}

function escaped(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s+/g, " ");
}
