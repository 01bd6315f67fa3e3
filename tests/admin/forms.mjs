// Uses the administrator's page as a person does, and lets a page of another origin try it in their name.
// Arguments: the browser, the proxy's address, the token, a width, a scheme, a language, a folder for pictures (or
// nothing).
import { createServer } from "node:http";
import { open, picture, run } from "../support/chromium.mjs";

const [, , , base, token, width, scheme, language, pictures] = process.argv;

const look = `({
  url: location.href,
  heading: document.querySelector("h1")?.textContent,
  language: document.documentElement.lang,
  code: document.querySelector("pre code")?.textContent,
  alert: document.querySelector("[role=alert]")?.innerText,
  rpm: document.querySelector("form:not(td form) input[name=rpm]")?.value,
  rows: document.querySelectorAll("tbody tr").length,
  scripts: document.scripts.length + document.querySelectorAll("iframe, object, embed, img, b").length,
  overflow: document.documentElement.scrollWidth - innerWidth,
  text: document.body.innerText,
})`;

// A page of somebody else's that sends a form as soon as it is shown.
const form = `<form method="post" action="${base}/admin/form"><input name="do" value="set_limits">
  <input name="level" value="total"><input name="rpm" value="1"></form><script>document.forms[0].submit()</script>`;
const evil = createServer((_, response) => response.setHeader("content-type", "text/html").end(form));
await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));

run(async () => {
  const page = await open(Number(width), scheme, language);
  const fill = async (what, fields) => {
    const own = `[...document.querySelectorAll("main form")].findLast((f) => f.elements.do.value === "${what}")`;
    for (const [name, value] of Object.entries(fields)) {
      await page.evaluate(`${own}.elements[${JSON.stringify(name)}].focus()`);
      await page.evaluate(`${own}.elements[${JSON.stringify(name)}].value = ""`);
      await page.call("Input.insertText", { text: value });
    }
    await page.click(`${own}.querySelector("button")`);
    return page.evaluate(look);
  };
  const seen = {};
  await page.go(`${base.replace("//", `//admin:${token}@`)}/admin`);
  seen.first = await page.evaluate(look);
  await picture(page, pictures, `admin-${width}-${scheme}-${language}`, Number(width));
  seen.limited = await fill("set_limits", { name: "太郎 & <b>co</b>", rpm: "7" });
  await page.click(`document.querySelector('a[href*="%3Cb%3Eco"]')`);
  seen.chosen = await page.evaluate(look);
  seen.refused = await fill("set_limits", { name: "hana", rpm: "many" });
  seen.made = await fill("create_key", { user: "hana", expires: "1d" });
  await page.go(`${base}/admin/`);
  seen.after = await page.evaluate(look);
  seen.moved = await fill("set_team", { user: "hana", team: "lab" });
  const complaints = [...page.complaints];
  for (const host of ["127.0.0.1", "localhost"]) {
    await page.go(`http://${host}:${evil.address().port}/`);
    for (let tries = 0; tries < 100 && !(await page.evaluate("location.href")).includes("/admin/form"); tries++)
      await new Promise((resolve) => setTimeout(resolve, 50));
    (seen.evil ??= []).push(await page.evaluate("({ url: location.href, text: document.body.innerText })"));
  }
  return { ...seen, complaints, requests: page.requests };
});
