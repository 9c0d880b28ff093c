/** What a video says, in words: the captions take the place of a voice. */

export type Caption = { from: number; text: string };

/** The caption that stands at a frame; undefined before the first. */
export function captionAt(captions: readonly Caption[], frame: number): Caption | undefined {
  return captions.filter((caption) => caption.from <= frame).at(-1);
}
