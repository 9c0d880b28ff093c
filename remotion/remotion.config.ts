import { existsSync } from "node:fs";
import { Server } from "node:net";
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
// So VP9 takes less than a tenth of the time that VP8 takes at its fastest. bitexact: no random number in the file.
const VP9 = ["-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1", "-fflags", "+bitexact"];
Config.overrideFfmpegCommand(({ args }) =>
  args.includes("libvpx-vp9") ? [...args.slice(0, -1), ...VP9, args[args.length - 1]] : args,
);
// Remotion's servers (the studio's writes files) listen on every address, and no option keeps them to this machine.
const listen = Server.prototype.listen as (this: Server, ...given: unknown[]) => Server;
Server.prototype.listen = function (this: Server, ...[to, ...more]: unknown[]) {
  const options = typeof to === "object" ? to : { port: to };
  return listen.call(this, { ...options, host: "127.0.0.1" }, ...more);
};
