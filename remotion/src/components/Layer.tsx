import { whole } from "../numbers";
import type { Scene } from "../schema";
import { BOTTOM, color, role, size, TOP } from "../theme";
import { Text } from "./Text";

const LEFT = 452;
const RIGHT = 850;
const MOST_HEADS = 16;
/** Side of the picture of who sees whom, and tokens in it. */
const SIDE = 104;
const TOKENS = 13;

const POSITIONS = {
  rope: "places: by rotation (RoPE)",
  learned: "places: a learned vector each",
  alibi: "places: far is weaker (ALiBi)",
  none: "places: not told",
};

/** One layer, opened: heads, what they see, the MLP. */
export function Layer({ scene, index }: { scene: Scene<"TransformerArchitecture">; index: number }) {
  const layer = scene.layers[index];
  const values = layer.value_embedding > 0;
  const hasValues = scene.layers.some((other) => other.value_embedding > 0);
  return (
    <g>
      <rect x={LEFT} y={TOP} width={RIGHT - LEFT} height={BOTTOM - TOP} rx={14} fill={color.panel} />
      <Text x={LEFT + 22} y={TOP + 30} fontSize={28} bold>
        {`layer ${index + 1} of ${scene.layers.length}`}
      </Text>
      <Heads scene={scene} />
      <Sight window={layer.window} context={scene.context} />
      <Mlp width={scene.width} inside={scene.mlp_width} />
      <Text x={LEFT + 22} y={BOTTOM - 24} fontSize={size.small} fill={values ? role.value_embedding : color.quiet}>
        {values
          ? `+ value embedding ${whole(layer.value_embedding)}`
          : hasValues
            ? "no value embedding here"
            : POSITIONS[scene.position]}
      </Text>
    </g>
  );
}

function Heads({ scene }: { scene: Scene<"TransformerArchitecture"> }) {
  const shown = Math.min(scene.heads, MOST_HEADS);
  const width = (RIGHT - LEFT - 44) / shown;
  const group = scene.heads / scene.kv_heads;
  const y = TOP + 62;
  return (
    <g>
      <Text x={LEFT + 22} y={y + 6} fill={role.attention} fontSize={size.small} bold>
        {`${scene.heads} heads × ${scene.head_width}${group > 1 ? `, ${scene.kv_heads} of keys and values` : ""}`}
      </Text>
      {Array.from({ length: shown }, (_, i) => (
        <rect
          key={i}
          x={LEFT + 22 + i * width}
          y={y + 24}
          width={width - 5}
          height={40}
          rx={6}
          fill={role.attention}
          opacity={Math.floor(i / group) % 2 && group > 1 ? 0.65 : 1}
        />
      ))}
    </g>
  );
}

/** Rows are tokens, columns what they see: themselves and those before, as far as the window goes. */
function Sight({ window, context }: { window: number; context: number }) {
  const cell = SIDE / TOKENS;
  const y = TOP + 150;
  const isFull = window >= context - 1;
  const reach = isFull ? TOKENS : Math.max(1, Math.round((TOKENS * (window + 1)) / context));
  const cells = [];
  for (let row = 0; row < TOKENS; row++) {
    for (let column = 0; column < TOKENS; column++) {
      const isSeen = column <= row && row - column < reach;
      cells.push(
        <rect
          key={`${row} ${column}`}
          x={LEFT + 22 + column * cell}
          y={y + row * cell}
          width={cell - 1.5}
          height={cell - 1.5}
          fill={isSeen ? role.attention : color.line}
          opacity={isSeen ? 1 : 0.5}
        />,
      );
    }
  }
  return (
    <g>
      {cells}
      <Text x={LEFT + 146} y={y + 24} fontSize={size.small}>
        a token sees itself
      </Text>
      <Text x={LEFT + 146} y={y + 52} fontSize={size.small}>
        {`and ${isFull ? "all" : "the"} ${whole(window)} before it`}
      </Text>
      <Text x={LEFT + 146} y={y + 80} fontSize={size.small} fill={color.quiet}>
        {isFull ? "(the whole context)" : `(of a context of ${whole(context)})`}
      </Text>
    </g>
  );
}

function Mlp({ width, inside }: { width: number; inside: number }) {
  const left = LEFT + 22;
  const right = RIGHT - 22;
  const middle = (left + right) / 2;
  const y = TOP + 290;
  const quarter = (right - left) / 8;
  return (
    <g>
      <Text x={left} y={y} fill={role.mlp} fontSize={size.small} bold>
        MLP, on each token alone
      </Text>
      <path
        d={`M${middle - quarter} ${y + 108}L${left} ${y + 63}L${middle - quarter} ${y + 18}H${middle + quarter}L${right} ${y + 63}L${middle + quarter} ${y + 108}Z`}
        fill={role.mlp}
      />
      {[
        [y + 34, width],
        [y + 63, inside],
        [y + 92, width],
      ].map(([at, count]) => (
        <Text key={at} x={middle} y={at} anchor="middle" fill={color.ground} fontSize={size.small} bold>
          {whole(count)}
        </Text>
      ))}
    </g>
  );
}
