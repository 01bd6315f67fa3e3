// Drives a real Chromium over its debugging pipe. What a script with it has seen goes out as one JSON document.
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const profile = mkdtempSync(join(tmpdir(), "dashboard-"));
const flags = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
  "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--no-default-browser-check", "--hide-scrollbars", `--user-data-dir=${profile}`];
const browser = spawn(process.argv[2], [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [to, from] = [browser.stdio[3], browser.stdio[4]];
const waiting = new Map();
const listeners = [];
let next = 0;
let unread = Buffer.alloc(0);

from.on("data", (data) => {
  unread = Buffer.concat([unread, data]);
  for (let end; (end = unread.indexOf(0)) >= 0; unread = unread.subarray(end + 1)) {
    const message = JSON.parse(unread.subarray(0, end).toString());
    if (message.id === undefined) {
      listeners.forEach((listener) => listener(message));
      continue;
    }
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    message.error ? reject(new Error(JSON.stringify(message.error))) : resolve(message.result);
  }
});

function send(method, params = {}, sessionId = undefined) {
  const id = ++next;
  to.write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

// A page of this width; what it asks for and complains of is kept.
export async function open(width, scheme, language = "en") {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = { requests: [], complaints: [], loads: [], call: (method, params) => send(method, params, sessionId) };
  listeners.push(({ method, params, sessionId: whose }) => {
    if (whose !== sessionId) return;
    if (method === "Network.requestWillBeSent") page.requests.push(params.request.url);
    if (method === "Runtime.consoleAPICalled" || method === "Runtime.exceptionThrown") page.complaints.push(params);
    if (method === "Log.entryAdded") page.complaints.push(params.entry);
    if (method === "Audits.issueAdded") page.complaints.push(params.issue);
    if (method === "Page.loadEventFired") page.loads.splice(0).forEach((resolve) => resolve());
  });
  for (const domain of ["Page", "Runtime", "Log", "Network", "Audits"]) await page.call(`${domain}.enable`);
  const mobile = width < 600;
  await page.call("Emulation.setDeviceMetricsOverride", { width, height: 800, deviceScaleFactor: 1, mobile });
  await page.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  await page.call("Network.setExtraHTTPHeaders", { headers: { "accept-language": language } });
  page.loaded = () => new Promise((resolve) => page.loads.push(resolve));
  page.go = async (url) => {
    const loaded = page.loaded();
    await page.call("Page.navigate", { url });
    await loaded;
  };
  page.evaluate = async (expression) => {
    const { result, exceptionDetails } = await page.call("Runtime.evaluate", { expression, returnByValue: true });
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  };
  // A click where the element is, as a hand does it.
  page.click = async (element) => {
    await page.evaluate(`${element}.scrollIntoView({ block: "center" })`);
    const [x, y] = await page.evaluate(
      `(() => { const r = ${element}.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2] })()`);
    const loaded = page.loaded();
    for (const type of ["mousePressed", "mouseReleased"])
      await page.call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    await loaded;
  };
  return page;
}

// A picture of the whole page, where a folder is given.
export async function picture(page, folder, name, width) {
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  const { data } = await page.call("Page.captureScreenshot", { captureBeyondViewport: true,
    clip: { x: 0, y: 0, width, scale: 1, height: await page.evaluate("document.documentElement.scrollHeight") } });
  writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
}

// Runs a script, prints what it returns, and ends the browser.
export async function run(script) {
  try {
    console.log(JSON.stringify(await script()));
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    const gone = new Promise((resolve) => browser.on("exit", resolve));
    send("Browser.close").catch(() => browser.kill("SIGKILL"));
    await gone;
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    process.exit(process.exitCode ?? 0);
  }
}
