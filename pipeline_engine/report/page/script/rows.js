// Which rows there are: searched, sorted, opened.
const view = {from: 0, to: 1};
const opened = new Set();
let lines = [],
  query = '',
  order = 'start',
  chosen = NaN,
  hovered = NaN,
  picked = -1,
  brush = null,
  only = null;
// A line is a document (`-1 - place`), or a row.
const isDocument = (line) => line < 0;
const documentAt = (line) => (isDocument(line) ? -1 - line : documentOf[line]);

function matches() {
  const isIn = (text) => text.toLowerCase().includes(query);
  const inTexts = texts.map(isIn),
    inSteps = steps.map(isIn),
    inOutcomes = data.outcomes.map(([name]) => isIn(name));
  const inStatuses = data.statuses.map(isIn);
  const has = (place) => place >= 0 && inTexts[place];
  const own = documents.key.map((key, place) => inTexts[key] || inStatuses[documents.status[place]]);
  const found = new Uint8Array(rowCount);
  for (let row = 0; row < rowCount; row++) {
    if (
      inSteps[rows.step[row]] ||
      has(rows.why[row]) ||
      has(rows.model[row]) ||
      has(rows.via[row]) ||
      inOutcomes[rows.outcome[row]]
    )
      found[row] = 1;
    else
      for (let bar = firstBar[row]; bar < firstBar[row + 1]; bar++)
        if (has(bars.fault[bar]) || has(bars.model[bar])) {
          found[row] = 1;
          break;
        }
  }
  return {own, found};
}
function sorted(list, start, length, cost, failed) {
  const by = {
    start: (one) => start(one),
    length: (one) => -length(one),
    cost: (one) => -cost(one),
    failed: (one) => -failed(one),
  }[order];
  return list
    .map((one) => [by(one), one])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1])
    .map(([, one]) => one);
}
const rowCost = (row) => {
  let cost = rows.cost[row];
  if (hasItems(row)) for (let item = row + 1; item < itemsEnd(row); item++) cost += rows.cost[item];
  return cost;
};
const sortedRows = (list) =>
  order === 'start'
    ? list
    : sorted(
        list,
        (row) => rowStart[row],
        (row) => rowLength[row],
        rowCost,
        failedRow,
      );
function arrange() {
  only = query ? matches() : null;
  const all = sorted(
    [...documents.key.keys()],
    (place) => documents.start[place],
    (place) => documents.length[place],
    (place) => documentCost[place],
    (place) => documentFailed[place],
  );
  lines = [];
  let shown = 0;
  for (const place of all) {
    const isOwn = only === null || (data.is_batch && only.own[place]);
    const isFound = (row) => isOwn || only.found[row];
    const stepsShown = [];
    for (let row = firstRow[place]; row < firstRow[place + 1]; row = hasItems(row) ? itemsEnd(row) : row + 1) {
      let is = isFound(row);
      if (!is && hasItems(row)) for (let item = row + 1; item < itemsEnd(row) && !is; item++) is = isFound(item);
      if (is) stepsShown.push(row);
    }
    if (!stepsShown.length && !isOwn) continue;
    shown++;
    if (data.is_batch) {
      lines.push(-1 - place);
      if (!opened.has(-1 - place)) continue;
    }
    for (const row of sortedRows(stepsShown)) {
      lines.push(row);
      if (!hasItems(row) || !opened.has(row)) continue;
      const items = [];
      for (let item = row + 1; item < itemsEnd(row); item++) if (isFound(item)) items.push(item);
      lines.push(...sortedRows(items));
    }
  }
  if (data.is_whole)
    byId('count').textContent = data.is_batch
      ? `${many(shown, 'document')}, ${many(lines.length, 'row')}`
      : many(lines.length, 'row');
  if (!lines.includes(chosen)) chosen = NaN;
  resize();
}
