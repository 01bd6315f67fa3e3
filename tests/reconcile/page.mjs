// Looks at what the page says of the books, in both languages, wide and narrow.
// Arguments: the browser, the proxy's address, a folder for pictures (or nothing).
import { open, picture, run } from "../support/chromium.mjs";

const [, , , base, pictures] = process.argv;

run(async () => {
  const seen = [];
  for (const language of ["en", "ja"]) for (const width of [1280, 390]) {
    const page = await open(width, "light", language);
    await page.go(`${base}/dashboard`);
    await picture(page, pictures, `books-${language}-${width}`, width);
    const text = await page.evaluate(`document.querySelector("#agreement")?.innerText ?? ""`);
    const overflow = await page.evaluate(`document.documentElement.scrollWidth - innerWidth`);
    seen.push({ language, width, text, overflow, complaints: page.complaints });
  }
  return seen;
});
