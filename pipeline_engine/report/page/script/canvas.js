// Colours and patterns, from the page's own style.
const canvas = byId('canvas'),
  pen = canvas.getContext('2d'),
  chart = byId('chart');
let color = {},
  fills = [],
  flats = [],
  font = '',
  width = 0,
  height = 0,
  label = 240,
  took = 108;
function readStyle() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  for (const name of ['card', 'ink', 'quiet', 'line', 'hair', 'accent', 'good', 'bad', 'warn', 'attempt'])
    color[name] = read(name);
  font = getComputedStyle(document.body).fontFamily;
  flats = kinds.map((kind) => read(kind.flat));
  fills = kinds.map((kind) => {
    if (!kind.marks.length) return read(kind.paper);
    const tile = document.createElement('canvas');
    tile.width = tile.height = kind.size * 4;
    const brushes = tile.getContext('2d');
    brushes.scale(4, 4);
    brushes.fillStyle = read(kind.paper);
    brushes.fillRect(0, 0, kind.size, kind.size);
    brushes.fillStyle = read(kind.ink);
    for (const mark of kind.marks) brushes.fillRect(...mark);
    const pattern = pen.createPattern(tile, 'repeat');
    pattern.setTransform(new DOMMatrix().rotate(kind.angle).scale(1 / 4));
    return pattern;
  });
}
function resize() {
  const style = getComputedStyle(document.documentElement),
    whole = AXIS + lines.length * LINE,
    scale = devicePixelRatio || 1;
  byId('rows').style.height = `${whole}px`;
  width = chart.clientWidth;
  height = Math.min(whole, MOST_HEIGHT);
  [label, took] = ['--label', '--took'].map((name) =>
    Math.round((width * parseFloat(style.getPropertyValue(name))) / 100),
  );
  // A canvas that is given a size is cleared and made anew, even if it is the one that it has.
  const size = [width * scale, height * scale].map(Math.floor);
  if (canvas.width !== size[0] || canvas.height !== size[1]) {
    [canvas.width, canvas.height] = size;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  draw();
}

// Drawing.
let isAsked = false;
function draw() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    paint();
  });
}
const laneWidth = () => Math.max(1, width - label - took);
const xOf = (at) => label + ((at - view.from) / (view.to - view.from)) * laneWidth();
const atX = (x) => view.from + ((x - label) / laneWidth()) * (view.to - view.from);
const yOf = (index) => AXIS + index * LINE - chart.scrollTop;
function longest(low, high, fits) {
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (fits(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}
function fitted(text, room) {
  if (pen.measureText(text).width <= room) return text;
  const kept = longest(0, text.length, (length) => pen.measureText(`${text.slice(0, length)}…`).width <= room);
  return kept ? `${text.slice(0, kept)}…` : '';
}
// Of a path both ends tell something: it is cut in the middle.
function fittedKey(text, room) {
  if (pen.measureText(text).width <= room) return text;
  const cut = (kept) =>
    `${text.slice(0, Math.floor(kept / 3))}…${text.slice(text.length - Math.ceil((kept * 2) / 3))}`;
  return cut(longest(1, text.length - 1, (kept) => pen.measureText(cut(kept)).width <= room));
}
function bar(kind, start, length, y, tall, alpha = 1) {
  const left = Math.max(label, xOf(start)),
    right = Math.min(label + laneWidth(), xOf(start + length));
  if (right < label || left > label + laneWidth()) return;
  pen.globalAlpha = alpha;
  // A pattern says nothing in two pixels: its colour does.
  pen.fillStyle = right - left < 4 ? flats[kind] : fills[kind];
  pen.fillRect(left, y, Math.max(1, right - left - (right - left > 3 ? 0.75 : 0)), tall);
  pen.globalAlpha = 1;
}
function paintRow(row, y, tall) {
  for (let index = firstBar[row]; index < firstBar[row + 1]; index++) {
    bar(bars.kind[index], barStart[index], bars.length[index], y, tall);
    if (bars.first[index] >= 0) {
      const left = Math.max(label, xOf(barStart[index])),
        right = Math.min(label + laneWidth(), xOf(barStart[index] + bars.first[index]));
      if (right > left) {
        pen.globalAlpha = 0.5;
        pen.fillStyle = color.card;
        pen.fillRect(left, y, right - left, tall);
        pen.globalAlpha = 1;
      }
    }
  }
  for (const index of secondsOf.get(row) || []) {
    const start = documents.start[documentOf[row]] + data.seconds.start[index];
    pen.fillStyle = color.attempt;
    pen.globalAlpha = data.seconds.won[index] ? 1 : 0.55;
    const left = Math.max(label, xOf(start)),
      right = Math.min(label + laneWidth(), xOf(start + data.seconds.length[index]));
    if (right > left) pen.fillRect(left, y + tall + 1, Math.max(1, right - left), 3);
    pen.globalAlpha = 1;
  }
}
// A mapped step: how many of its items worked, and below how many waited, column by column. Each has a scale of its own:
// thousands that wait would flatten the few that work.
const WORKING = new Set(['attempt', 'failed', 'validate']);
function paintItems(row, y, tall) {
  const columns = Math.ceil(laneWidth() / 2),
    heights = kinds.map(() => null),
    perColumn = (view.to - view.from) / columns;
  for (let index = firstBar[row + 1], end = firstBar[itemsEnd(row)]; index < end; index++) {
    const kind = bars.kind[index],
      from = (barStart[index] - view.from) / perColumn,
      to = from + bars.length[index] / perColumn;
    if (to < 0 || from > columns) continue;
    const own = heights[kind] || (heights[kind] = new Float64Array(columns));
    for (let column = Math.max(0, Math.floor(from)); column < Math.min(columns, Math.ceil(to)); column++)
      own[column] += Math.min(to, column + 1) - Math.max(from, column);
  }
  const present = [...kinds.keys()].filter((kind) => heights[kind]);
  const working = present.filter((kind) => WORKING.has(kinds[kind].code)),
    waiting = present.filter((kind) => !WORKING.has(kinds[kind].code));
  const floor = waiting.length ? Math.round(tall * 0.62) : tall;
  paintStack(working, heights, columns, y + floor, floor);
  paintStack(waiting, heights, columns, y + tall, tall - floor - 1);
}
function paintStack(stack, heights, columns, ground, tall) {
  const sums = new Float64Array(columns),
    below = new Float64Array(columns);
  for (const kind of stack) for (let column = 0; column < columns; column++) sums[column] += heights[kind][column];
  const highest = sums.reduce((a, b) => Math.max(a, b), 0);
  if (!highest) return;
  for (const kind of stack) {
    pen.fillStyle = flats[kind];
    pen.globalAlpha = kinds[kind].opacity;
    for (let column = 0; column < columns; column++) {
      const height = (heights[kind][column] / highest) * tall;
      if (height > 0.05) pen.fillRect(label + column * 2, ground - below[column] - height, 2, height);
      below[column] += height;
    }
    pen.globalAlpha = 1;
  }
}
// A document: its critical path, on which each second is one that it waited for.
function paintPath(place, y, tall) {
  for (let row = firstRow[place]; row < firstRow[place + 1]; row++)
    if (isCritical(row) && !hasItems(row)) paintRow(row, y, tall);
}
const status = (line) =>
  isDocument(line) ? data.statuses[documents.status[documentAt(line)]] : data.outcomes[rows.outcome[line]][0];
const sign = (name) =>
  ({completed: '✓', partial: '◐', failed: '✗', stopped: '■', running: '…', skipped: '–', dropped: '∅'})[name];
const signColor = (name) =>
  ({completed: color.good, failed: color.bad, dropped: color.bad, partial: color.warn, stopped: color.warn})[
    name
  ] || color.quiet;
function notes(row) {
  const found = [];
  if (isMapped(row)) found.push(`×${grouped(rows.width[row])}`);
  else if (rows.attempts[row] > 1) found.push(`↻${rows.attempts[row] - 1}`);
  if (origin(row) !== 'executed') found.push(origin(row));
  if (rows.via[row] >= 0) found.push(texts[rows.via[row]]);
  else if (rows.item[row] < 0 && rows.model[row] >= 0) found.push(texts[rows.model[row]].replace(/^[^:]*:/, ''));
  return found.join(' · ');
}
function paint() {
  const scale = devicePixelRatio || 1;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const first = Math.max(0, Math.floor(chart.scrollTop / LINE) - 1),
    last = Math.min(lines.length, first + Math.ceil(height / LINE) + 2);
  const shownTicks = ticks(view.from, view.to, mostTicks());
  pen.fillStyle = color.hair;
  for (const tick of shownTicks) pen.fillRect(Math.round(xOf(tick / data.unit)), AXIS - 4, 1, height);
  const focus = Number.isNaN(hovered) || hovered === null ? chosen : hovered;
  const isLit = Number.isNaN(focus) ? -1 : documentAt(focus);
  for (let index = first; index < last; index++) {
    const line = lines[index],
      y = yOf(index),
      tall = 13,
      top = y + 4;
    if (line === chosen || line === focus) {
      pen.fillStyle = color.attempt;
      pen.globalAlpha = line === chosen ? 0.14 : 0.07;
      pen.fillRect(0, y, width, LINE);
      pen.globalAlpha = 1;
    }
    if (isDocument(line)) paintPath(documentAt(line), top, tall);
    else if (hasItems(line)) paintItems(line, y + 2, 18);
    else paintRow(line, top, tall);
    const isQuiet = !isDocument(line) && rows.item[line] >= 0;
    if (!isDocument(line) && !hasItems(line) && rows.bars[line] === 0) {
      pen.font = `italic 12px ${font}`;
      pen.fillStyle = color.quiet;
      if (rows.why[line] >= 0) pen.fillText(fitted(texts[rows.why[line]], laneWidth() - 8), label + 6, y + 15);
      else if (rows.length[line]) {
        // Its items are still to be read.
        const left = Math.max(label, xOf(rowStart[line])),
          right = Math.min(label + laneWidth(), xOf(rowStart[line] + rowLength[line]));
        pen.fillStyle = color.line;
        if (right > left) pen.fillRect(left, top, right - left, tall);
      } else {
        pen.fillStyle = color.ink;
        pen.fillRect(xOf(rowStart[line]), top, 2, tall);
      }
    }
    // What lies outside of the time that is shown is pointed at.
    const since = isDocument(line) ? documents.start[documentAt(line)] : rowStart[line],
      until = since + (isDocument(line) ? documents.length[documentAt(line)] : rowLength[line]);
    if (until < view.from || since > view.to) {
      pen.font = `12px ${font}`;
      pen.fillStyle = color.quiet;
      if (until < view.from) pen.fillText('‹', label + 3, y + 15);
      else pen.fillText('›', label + laneWidth() - 9, y + 15);
    }
    if (!isDocument(line) && isCritical(line) && (documentAt(line) === isLit || !data.is_batch)) {
      const left = Math.max(label, xOf(rowStart[line])),
        right = Math.min(label + laneWidth(), xOf(rowStart[line] + rowLength[line]));
      if (right > left) {
        pen.strokeStyle = color.accent;
        pen.lineWidth = 1.5;
        pen.strokeRect(left - 1, top - 1.5, right - left + 1.5, tall + 3);
      }
    }
    const depth = isDocument(line) ? 0 : (data.is_batch ? 1 : 0) + (isQuiet ? 1 : 0);
    const canOpen = isDocument(line) || hasItems(line),
      left = 16 + depth * (label > 150 ? 14 : 6);
    pen.fillStyle = color.quiet;
    pen.font = `10px ${font}`;
    if (canOpen) pen.fillText(opened.has(line) ? '▾' : '▸', left - 13, y + 15);
    else if (isCritical(line)) {
      pen.fillStyle = color.accent;
      pen.fillText('◆', left - 13, y + 15);
    }
    pen.fillStyle = isQuiet ? color.quiet : color.ink;
    pen.font = `${isDocument(line) ? '600 ' : isQuiet ? '' : '500 '}13px ${font}`;
    const name = isDocument(line)
      ? fittedKey(texts[documents.key[documentAt(line)]], label - left - 8)
      : fitted(isQuiet ? `[${rows.item[line]}]` : steps[rows.step[line]], label - left - 8);
    pen.fillText(name, left, y + 15);
    const used = left + pen.measureText(name).width + 7,
      note = isDocument(line) ? '' : notes(line);
    if (note && used < label - 34) {
      pen.font = `11.5px ${font}`;
      pen.fillStyle = color.quiet;
      pen.fillText(fitted(note, label - used - 6), used, y + 15);
    }
    const how = status(line),
      length = isDocument(line) ? documents.length[documentAt(line)] : rowLength[line];
    pen.font = `12.5px ${font}`;
    pen.textAlign = 'right';
    pen.fillStyle = signColor(how);
    pen.fillText(sign(how), width - 4, y + 15);
    pen.fillStyle = color.ink;
    if (took > 80 && (isDocument(line) || rows.bars[line] || hasItems(line)))
      pen.fillText(seconds(length), width - 22, y + 15);
    pen.textAlign = 'left';
  }
  if (!Number.isNaN(focus) && !isDocument(focus)) paintUnblocking(focus);
  if (brush !== null) {
    const left = Math.max(label, xOf(brush[0])),
      right = Math.min(label + laneWidth(), xOf(brush[1]));
    pen.fillStyle = color.attempt;
    pen.globalAlpha = 0.15;
    pen.fillRect(left, AXIS, right - left, height);
    pen.globalAlpha = 1;
    pen.fillRect(left, AXIS, 1, height);
    pen.fillRect(right, AXIS, 1, height);
  }
  pen.fillStyle = color.card;
  pen.fillRect(0, 0, width, AXIS - 3);
  pen.fillStyle = color.line;
  pen.fillRect(0, AXIS - 4, width, 1);
  pen.font = `12px ${font}`;
  pen.fillStyle = color.quiet;
  for (const tick of shownTicks) {
    const x = xOf(tick / data.unit),
      text = tickText(tick),
      half = pen.measureText(text).width / 2;
    pen.fillText(text, Math.min(width - 2 * half, Math.max(label, x - half)), 13);
  }
}
// Who let a step begin: a line from the end of that step to the start of this one.
function paintUnblocking(row) {
  const by = rows.unblocked[row];
  if (by < 0) return;
  const from = lines.findIndex(
    (line) =>
      !isDocument(line) && documentOf[line] === documentOf[row] && rows.item[line] < 0 && rows.step[line] === by,
  );
  const to = lines.indexOf(row);
  if (from < 0 || to < 0) return;
  const x = xOf(rowStart[row]),
    y = yOf(from) + LINE / 2,
    end = yOf(to) + LINE / 2;
  if (x < label || x > label + laneWidth()) return;
  pen.strokeStyle = color.accent;
  pen.fillStyle = color.accent;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x - 9, y);
  pen.lineTo(x, y);
  pen.lineTo(x, end);
  pen.stroke();
  const turn = end > y ? -1 : 1;
  pen.beginPath();
  pen.moveTo(x, end);
  pen.lineTo(x - 4, end + turn * 7);
  pen.lineTo(x + 4, end + turn * 7);
  pen.fill();
}
