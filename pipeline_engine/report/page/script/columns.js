// The columns, as `page/columns.py` wrote them, and where things begin in them.
const byId = (name) => document.getElementById(name);
const LINE = 22,
  AXIS = 22,
  MOST_HEIGHT = 620;
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text),
    bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
  return bytes;
}
const parse = (text) => JSON.parse(new TextDecoder().decode(bytesOf(text)));
async function inflate(text) {
  const inflated = new DecompressionStream('deflate'),
    writer = inflated.writable.getWriter();
  writer.write(bytesOf(text));
  writer.close();
  return new Response(inflated.readable).json();
}
if (!document.documentElement.classList.contains('is-live')) return;

// What is there: at first the runs of the first screen, later all of them.
let data, documents, rows, bars, steps, texts, kinds, rowCount, documentCount;
// Where things begin: the first row of each document, the first bar of each row, and each bar's own start.
let firstRow, firstBar, documentOf, stepRow, rowStart, rowLength, barStart, documentCost, documentFailed, secondsOf;
function take(columns) {
  data = columns;
  ({documents, rows, bars, steps, texts, kinds} = data);
  rowCount = rows.step.length;
  documentCount = documents.key.length;
  firstRow = new Int32Array(documentCount + 1);
  firstBar = new Int32Array(rowCount + 1);
  documentOf = new Int32Array(rowCount);
  stepRow = new Int32Array(rowCount).fill(-1);
  rowStart = new Float64Array(rowCount);
  rowLength = new Float64Array(rowCount);
  barStart = new Float64Array(bars.kind.length);
  documentCost = new Float64Array(documentCount);
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
      documentFailed[place] += failedRow(row);
    }
  }
  secondsOf = new Map();
  data.seconds.row.forEach((row, index) => {
    if (secondsOf.has(row)) secondsOf.get(row).push(index);
    else secondsOf.set(row, [index]);
  });
}
const failedRow = (row) => +['failed', 'dropped'].includes(data.outcomes[rows.outcome[row]][0]);
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
