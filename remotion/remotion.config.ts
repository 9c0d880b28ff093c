import { existsSync } from "node:fs";
import { Config } from "@remotion/cli/config";

// A browser of the machine; Remotion downloads one of its own otherwise.
const places = [
  process.env.REMOTION_BROWSER,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
];
const browser = places.find((place) => place && existsSync(place));
if (browser) {
  Config.setBrowserExecutable(browser);
}
Config.setVideoImageFormat("png");
Config.setOverwriteOutput(true);
// VP8's encoder is slow at its defaults.
Config.overrideFfmpegCommand(({ args }) =>
  args.includes("libvpx")
    ? [...args.slice(0, -1), "-deadline", "realtime", "-cpu-used", "8", args[args.length - 1]]
    : args,
);
