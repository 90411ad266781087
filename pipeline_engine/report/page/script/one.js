// The drawing of the pipeline: all documents, as it was written, or one of them.
const drawn = document.querySelector('.dag');
const nodes = drawn
  ? [...drawn.querySelectorAll('[data-step]')].map((node) => ({
      node,
      step: +node.dataset.step,
      kept: node.getAttribute('class'),
      title: node.querySelector('title'),
      mark: node.querySelector('.dag-mark'),
      figures: node.querySelector('.dag-figures'),
      heat: node.querySelector('.dag-heat'),
    }))
  : [];
const edges = drawn
  ? [...drawn.querySelectorAll('[data-edge]')].map((node) => ({
      node,
      kept: node.getAttribute('class'),
      edge: node.dataset.edge,
    }))
  : [];
for (const one of nodes)
  one.was = [
    one.title.textContent,
    one.mark?.textContent,
    one.figures?.textContent,
    one.heat.getAttribute('fill-opacity'),
  ];
function drawAll() {
  for (const one of nodes) {
    one.node.setAttribute('class', one.kept);
    one.title.textContent = one.was[0];
    if (one.mark) one.mark.textContent = one.was[1];
    if (one.figures) one.figures.textContent = one.was[2];
    one.heat.setAttribute('fill-opacity', one.was[3]);
  }
  for (const {node, kept} of edges) node.setAttribute('class', kept);
}
function drawOne(place) {
  const rowOf = new Map(),
    busy = new Map();
  for (let row = firstRow[place]; row < firstRow[place + 1]; row++) {
    if (rows.item[row] < 0) rowOf.set(rows.step[row], row);
    for (let index = firstBar[row]; index < firstBar[row + 1]; index++) {
      if (['attempt', 'failed', 'backoff', 'validate'].includes(kinds[bars.kind[index]].code))
        busy.set(rows.step[row], (busy.get(rows.step[row]) || 0) + bars.length[index]);
    }
  }
  const most = Math.max(1, ...busy.values()),
    critical = new Set();
  for (const one of nodes) {
    const row = rowOf.get(one.step),
      how = row === undefined ? 'open' : data.outcomes[rows.outcome[row]][0];
    if (row !== undefined && isCritical(row))
      critical.add(`${rows.unblocked[row] < 0 ? '' : rows.unblocked[row]}-${one.step}`);
    one.node.setAttribute(
      'class',
      `dag-step is-${how}${row !== undefined && isCritical(row) ? ' is-critical' : ''}`,
    );
    one.title.textContent = row === undefined ? `${steps[one.step]} · not reached` : words(row).join(' · ');
    if (one.mark) one.mark.textContent = row === undefined ? '' : sign(how);
    if (one.figures)
      one.figures.textContent =
        row === undefined
          ? 'not reached'
          : rows.bars[row] || hasItems(row)
            ? [
                seconds(rowLength[row]),
                isMapped(row) ? `×${rows.width[row]}` : '',
                rows.attempts[row] > 1 && !isMapped(row) ? `↻${rows.attempts[row] - 1}` : '',
              ]
                .filter(Boolean)
                .join(' · ')
            : how;
    one.heat.setAttribute('fill-opacity', (0.02 + (0.19 * (busy.get(one.step) || 0)) / most).toFixed(3));
  }
  for (const {node, kept, edge} of edges)
    node.setAttribute(
      'class',
      critical.has(edge) && !edge.startsWith('-') ? 'dag-need critical' : kept.replace('critical', 'plain'),
    );
}
function show(isOne) {
  byId('show-all').setAttribute('aria-pressed', String(!isOne));
  byId('show-one').setAttribute('aria-pressed', String(isOne));
  if (isOne) drawOne(picked);
  else drawAll();
}
function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function pick(place) {
  if (place === picked) return;
  picked = place;
  const name = texts[documents.key[place]];
  byId('show-one').disabled = false;
  byId('show-one').textContent = name;
  show(true);
  byId('one').hidden = false;
  byId('one-title').textContent = name;
  const found = new Set();
  for (let index = firstBar[firstRow[place]]; index < firstBar[firstRow[place + 1]]; index++)
    found.add(bars.kind[index]);
  const present = [...kinds.keys()].filter((kind) => found.has(kind));
  const head = document.createElement('tr');
  head.append(
    ...[
      'Step',
      'Outcome',
      'Ready',
      'Took',
      ...present.map((kind) => kinds[kind].short),
      'Tries',
      'Cost',
      'Why',
    ].map((text, column) =>
      element('th', text, {scope: 'col', class: column > 1 && text !== 'Why' ? 'number' : ''}),
    ),
  );
  const body = document.createElement('tbody');
  for (let row = firstRow[place]; row < firstRow[place + 1]; row++) {
    if (rows.item[row] >= 0) continue;
    const sums = new Float64Array(kinds.length),
      end = hasItems(row) ? itemsEnd(row) : row + 1;
    for (let index = firstBar[row]; index < firstBar[end]; index++) sums[bars.kind[index]] += bars.length[index];
    const line = document.createElement('tr'),
      how = status(row),
      hasTime = rows.bars[row] || hasItems(row),
      cost = rowCost(row);
    line.append(
      element('th', rowName(row) + (isMapped(row) ? ` ×${rows.width[row]}` : ''), {scope: 'row'}),
      element('td', `${sign(how)} ${how}`),
      ...[
        rows.ready[row] < 0 ? '' : seconds(rows.ready[row]),
        hasTime ? seconds(rowLength[row]) : '',
        ...present.map((kind) => (sums[kind] ? seconds(sums[kind]) : '')),
        rows.attempts[row] || '',
        cost ? usd(cost) : '',
      ].map((text) => element('td', text, {class: 'number'})),
      element('td', rows.why[row] >= 0 ? texts[rows.why[row]] : '', {class: 'message'}),
    );
    body.append(line);
  }
  const top = document.createElement('thead');
  top.append(head);
  byId('one-table').replaceChildren(top, body);
}
byId('show-all').addEventListener('click', () => show(false));
byId('show-one').addEventListener('click', () => show(true));
