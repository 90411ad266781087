// Drives a browser for tests: a line of JSON in, a line of JSON out, until the input ends.
import {createInterface} from 'node:readline';
import {createRequire} from 'node:module';
const [playwright, executable] = process.argv.slice(2);
const {chromium} = createRequire(import.meta.url)(playwright);
const Steps = Object.getPrototypeOf(async () => {}).constructor;
const browser = await chromium.launch({executablePath: executable, args: ['--no-sandbox', '--disable-gpu']});
let context, page, seen;

// In the page: marks the second frame after what is seen first was drawn; without a script, after the page was loaded.
function watch() {
  const isDone = () =>
    document.querySelector('.is-live')
      ? performance.getEntriesByName('drawn').length
      : document.readyState === 'complete';
  const look = () =>
    requestAnimationFrame(() => {
      if (isDone()) requestAnimationFrame(() => performance.mark('shown'));
      else look();
    });
  look();
}
// In the page: whether it was seen, and all of it can be used.
const isReady = () =>
  performance.getEntriesByName('shown').length &&
  (performance.getEntriesByName('ready').length || !document.querySelector('.is-live'));

const does = {
  // Opens a page in a context of its own; what it asks for, says and complains of is written down.
  async open({address, options, calm}) {
    await context?.close();
    context = await browser.newContext({offline: true, ...options});
    page = await context.newPage();
    page.setDefaultTimeout(10000);
    seen = {requests: [], messages: [], dialogs: 0};
    page.on('request', (request) => {
      if (request.url() !== address && !request.url().startsWith('data:')) seen.requests.push(request.url());
    });
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) seen.messages.push(message.text());
    });
    page.on('pageerror', (error) => seen.messages.push(String(error)));
    page.on('dialog', async (dialog) => {
      seen.dialogs++;
      await dialog.dismiss();
    });
    await context.addInitScript(watch);
    // A new window has work of its own, which must not count.
    await page.waitForTimeout(calm);
    await page.goto(address);
    // A string would need eval, which the page's policy forbids: the function is asked again and again.
    for (let tries = 0; options.javaScriptEnabled !== false && tries < 400; tries++) {
      if (await page.evaluate(isReady)) break;
      await page.waitForTimeout(25);
    }
    return null;
  },
  async run({steps}) {
    return (await new Steps('page', 'context', steps)(page, context)) ?? null;
  },
  async seen() {
    return seen;
  },
};
for await (const line of createInterface({input: process.stdin})) {
  const {what, ...rest} = JSON.parse(line);
  let told;
  try {
    told = {value: await does[what](rest)};
  } catch (error) {
    told = {error: String(error.stack || error)};
  }
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
await browser.close();
