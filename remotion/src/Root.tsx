import type { ComponentType } from "react";
import { type CalculateMetadataFunction, Composition } from "remotion";
import * as Architecture from "./compositions/TransformerArchitecture";
import * as Attention from "./compositions/AttentionVisualization";
import * as Loss from "./compositions/TrainingLoss";
import * as Pipeline from "./compositions/DataPipeline";
import * as Scaling from "./compositions/ScalingLaws";
import architecture from "./samples/architecture.json";
import attention from "./samples/attention.json";
import loss from "./samples/loss.json";
import pipeline from "./samples/pipeline.json";
import scaling from "./samples/scaling.json";
import { type Name, read, type Scene } from "./schema";
import { FPS, HEIGHT, WIDTH } from "./theme";

type Props = { scene: unknown };
type Drawing<N extends Name> = { Drawing: ComponentType<{ scene: Scene<N> }>; frames: (scene: Scene<N>) => number };

/** One composition. The scene is a single property: a file that lacks a figure is not filled up from the sample. */
function composition<N extends Name>(id: N, { Drawing, frames }: Drawing<N>, sample: unknown) {
  const calculateMetadata: CalculateMetadataFunction<Props> = ({ props }) => ({
    durationInFrames: frames(read(id, props.scene)),
  });
  const Drawn = ({ scene }: Props) => <Drawing scene={scene as Scene<N>} />;
  return (
    <Composition
      key={id}
      id={id}
      component={Drawn}
      calculateMetadata={calculateMetadata}
      defaultProps={{ scene: sample }}
      fps={FPS}
      width={WIDTH}
      height={HEIGHT}
    />
  );
}

export function Root() {
  return (
    <>
      {composition("TransformerArchitecture", Architecture, architecture)}
      {composition("TrainingLoss", Loss, loss)}
      {composition("AttentionVisualization", Attention, attention)}
      {composition("ScalingLaws", Scaling, scaling)}
      {composition("DataPipeline", Pipeline, pipeline)}
    </>
  );
}
