// Drives a browser for tests: a line of JSON in, a line of JSON out, until the input ends.
import {createInterface} from 'node:readline';
import {createRequire} from 'node:module';
const [playwright, executable] = process.argv.slice(2);
const {chromium} = createRequire(import.meta.url)(playwright);
const Steps = Object.getPrototypeOf(async () => {}).constructor;
const browser = await chromium.launch({executablePath: executable, args: ['--no-sandbox', '--disable-gpu']});
let context, page, seen;

// In the page: marks the second frame after it was loaded, and its script is done if it has one.
function watch() {
  const isDone = () =>
    document.readyState === 'complete' &&
    (performance.getEntriesByName('ready').length || !document.querySelector('#data[data-rows]'));
  const look = () =>
    requestAnimationFrame(() => {
      if (isDone()) requestAnimationFrame(() => performance.mark('shown'));
      else look();
    });
  look();
}

const does = {
  // Opens a page in a context of its own; what it asks for, says and complains of is written down.
  async open({address, options}) {
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
    await page.goto(address);
    // A string would need eval, which the page's policy forbids: the function is asked again and again.
    for (let tries = 0; options.javaScriptEnabled !== false && tries < 400; tries++) {
      if (await page.evaluate(() => performance.getEntriesByName('shown').length)) break;
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
