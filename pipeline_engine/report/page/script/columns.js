// The columns, as `page/columns.py` wrote them, and where things begin in them.
const byId = (name) => document.getElementById(name);
const LINE = 22,
  AXIS = 22,
  MOST_HEIGHT = 620;
async function unpack(text) {
  const characters = atob(text),
    bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
  const inflated = new DecompressionStream('deflate'),
    writer = inflated.writable.getWriter();
  writer.write(bytes);
  writer.close();
  return new Response(inflated.readable).json();
}
if (typeof DecompressionStream === 'undefined' || !('rows' in byId('data').dataset)) return;
// What stands for the waterfall goes at once: the browser need not lay it out first.
document.documentElement.classList.add('is-live');
const data = await unpack(byId('data').textContent);
byId('data').textContent = '';
const {documents, rows, bars, steps, texts, kinds} = data;
const rowCount = rows.step.length,
  documentCount = documents.key.length;

// Where things begin: the first row of each document, the first bar of each row, and each bar's own start.
const firstRow = new Int32Array(documentCount + 1),
  firstBar = new Int32Array(rowCount + 1);
const documentOf = new Int32Array(rowCount),
  stepRow = new Int32Array(rowCount).fill(-1);
const rowStart = new Float64Array(rowCount),
  rowLength = new Float64Array(rowCount);
const barStart = new Float64Array(bars.kind.length);
const documentCost = new Float64Array(documentCount),
  documentFailed = new Int32Array(documentCount);
for (let place = 0; place < documentCount; place++) {
  firstRow[place + 1] = firstRow[place] + documents.rows[place];
  let step = -1;
  for (let row = firstRow[place]; row < firstRow[place + 1]; row++) {
    documentOf[row] = place;
    if (rows.item[row] < 0) step = row;
    else stepRow[row] = step;
    rowStart[row] = documents.start[place] + Math.max(0, rows.ready[row]);
    firstBar[row + 1] = firstBar[row] + rows.bars[row];
    let at = rowStart[row];
    for (let bar = firstBar[row]; bar < firstBar[row + 1]; bar++) {
      barStart[bar] = at;
      at += bars.length[bar];
    }
    rowLength[row] = rows.bars[row] ? at - rowStart[row] : rows.length[row];
    documentCost[place] += rows.cost[row];
    if (['failed', 'dropped'].includes(data.outcomes[rows.outcome[row]][0])) documentFailed[place]++;
  }
}
const secondsOf = new Map();
data.seconds.row.forEach((row, index) => secondsOf.set(row, [...(secondsOf.get(row) || []), index]));
const isCritical = (row) => rows.flags[row] & 1;
const origin = (row) => data.origins[rows.flags[row] >> 1];
const rowName = (row) => steps[rows.step[row]] + (rows.item[row] < 0 ? '' : `[${rows.item[row]}]`);
const isMapped = (row) => rows.width[row] >= 0;
const hasItems = (row) => isMapped(row) && row + 1 < rowCount && stepRow[row + 1] === row;
const itemsEnd = (row) => {
  let end = row + 1;
  while (end < rowCount && stepRow[end] === row) end++;
  return end;
};
