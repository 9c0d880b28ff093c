import type { ReactNode } from "react";
import { AbsoluteFill, Artifact, getInputProps, useCurrentFrame, useVideoConfig } from "remotion";
import { asWebVTT, type Caption, captionAt } from "../captions";
import { passed } from "../motion";
import { color, HEIGHT, MARGIN, sans, size, WIDTH } from "../theme";

/** The canvas of every video: title, what it is of, the drawing, a caption (also as a file), and how far it is. */
export function Stage(props: { title: string; subtitle: string; captions: readonly Caption[]; children: ReactNode }) {
  const frame = useCurrentFrame();
  const { durationInFrames, fps, id } = useVideoConfig();
  const { subtitles = `../${id}.vtt` } = getInputProps<{ subtitles?: string }>();
  const caption = captionAt(props.captions, frame);
  return (
    <AbsoluteFill style={{ backgroundColor: color.ground, color: color.ink, fontFamily: sans }}>
      {frame === 0 && (
        <Artifact filename={subtitles} content={asWebVTT(props.captions, durationInFrames, fps)} />
      )}
      <div style={{ position: "absolute", left: MARGIN, top: 28, fontSize: size.title, fontWeight: 700 }}>
        {props.title}
      </div>
      <div style={{ position: "absolute", left: MARGIN, top: 84, fontSize: size.subtitle, color: color.quiet }}>
        {props.subtitle}
      </div>
      <svg width={WIDTH} height={HEIGHT} style={{ position: "absolute" }} fontFamily={sans}>
        {props.children}
      </svg>
      {caption && (
        <div
          style={{
            position: "absolute",
            left: MARGIN,
            right: MARGIN,
            top: 612,
            height: 84,
            display: "flex",
            alignItems: "center",
            justifyContent: "center",
            textAlign: "center",
            fontSize: size.caption,
            lineHeight: 1.3,
            opacity: passed(frame, caption.from - 1, caption.from + 7),
          }}
        >
          <div style={{ maxWidth: 1140, textWrap: "balance" }}>{caption.text}</div>
        </div>
      )}
      <div
        style={{
          position: "absolute",
          left: 0,
          bottom: 0,
          height: 5,
          width: (WIDTH * (frame + 1)) / durationInFrames,
          backgroundColor: color.accent,
        }}
      />
    </AbsoluteFill>
  );
}
