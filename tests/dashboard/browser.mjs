// Looks at the dashboard at both widths, by day and by night.
// Arguments: the browser, the proxy's address, the name of a user, a folder for pictures (or nothing).
import { open, picture, run } from "../support/chromium.mjs";

const [, , , base, user, pictures] = process.argv;

const look = `({
  url: location.href,
  title: document.title,
  heading: document.querySelector("h1").textContent,
  current: document.querySelector("nav [aria-current]").textContent,
  users: [...document.querySelectorAll("section:has(h2) tbody th a[href*=user_id]")].map((a) => a.textContent),
  charts: [...document.querySelectorAll(".chart")].filter((c) => c.checkVisibility()).length,
  bars: [...document.querySelectorAll(".chart rect")].map((bar) => getComputedStyle(bar).fill),
  background: getComputedStyle(document.body).backgroundColor,
  scripts: document.scripts.length + document.querySelectorAll("iframe, object, embed, img, b").length,
  overflow: document.documentElement.scrollWidth - innerWidth,
  text: document.body.innerText,
})`;

async function visit(width, scheme) {
  const page = await open(width, scheme);
  const seen = { width, scheme };
  await page.go(`${base}/`);
  seen.first = await page.evaluate(look);
  await picture(page, pictures, `${width}-${scheme}`, width);
  const link = (text) => `[...document.querySelectorAll("a")].find((a) => a.textContent === ${JSON.stringify(text)})`;
  if (seen.first.users.includes(user)) {
    await page.click(link(user));
    seen.linked = await page.evaluate(look);
    await page.click(link("Show everybody"));
  }
  await page.click(link("7 days"));
  seen.week = await page.evaluate(look);
  await page.evaluate(`document.querySelector("input[type=search]").focus()`);
  await page.call("Input.insertText", { text: user });
  await page.click(`document.querySelector("form button")`);
  seen.asked = await page.evaluate(look);
  return { ...seen, requests: page.requests, complaints: page.complaints };
}

run(async () => {
  const visits = [];
  for (const scheme of ["light", "dark"]) for (const width of [1280, 390]) visits.push(await visit(width, scheme));
  return visits;
});
