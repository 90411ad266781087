// Words for what is pointed at.
function words(line) {
  if (isDocument(line)) {
    const place = documentAt(line),
      how = data.statuses[documents.status[place]];
    const path = [];
    for (let row = firstRow[place]; row < firstRow[place + 1]; row++)
      if (isCritical(row) && rows.item[row] < 0) path.push(row);
    path.sort((a, b) => rowStart[a] - rowStart[b]);
    const found = [
      texts[documents.key[place]],
      `${how} after ${seconds(documents.length[place])}, started at ${seconds(documents.start[place])}`,
    ];
    if (path.length) found.push(`critical path: ${path.map((row) => steps[rows.step[row]]).join(' → ')}`);
    if (documentCost[place]) found.push(`cost ${usd(documentCost[place])}`);
    if (documentFailed[place]) found.push(`${many(documentFailed[place], 'failure')}`);
    return found;
  }
  const own = documents.start[documentOf[line]],
    found = [rowName(line)];
  if (rows.ready[line] < 0) found.push(rows.why[line] >= 0 ? texts[rows.why[line]] : status(line));
  else found.push(`${status(line)} after ${seconds(rowLength[line])}, ready at ${seconds(rowStart[line] - own)}`);
  if (rows.unblocked[line] >= 0) found.push(`unblocked by ${steps[rows.unblocked[line]]}`);
  if (isMapped(line)) found.push(many(rows.width[line], 'item'));
  if (rows.attempts[line]) found.push(many(rows.attempts[line], 'attempt'));
  if (origin(line) !== 'executed') found.push(`its output was ${origin(line)}`);
  if (rows.via[line] >= 0) found.push(`via ${texts[rows.via[line]]}`);
  if (rows.model[line] >= 0) found.push(texts[rows.model[line]]);
  if (rows.in[line] || rows.out[line])
    found.push(`${grouped(rows.in[line])} tokens in, ${grouped(rows.out[line])} out`);
  const cost = rowCost(line);
  if (cost) found.push(`cost ${usd(cost)}`);
  if (rows.ready[line] >= 0 && rows.why[line] >= 0) found.push(texts[rows.why[line]]);
  if (isCritical(line)) found.push('on the critical path');
  return found;
}
function barWords(line, at) {
  const inside = [];
  const first = isDocument(line) ? firstRow[documentAt(line)] : line,
    end = isDocument(line) ? firstRow[documentAt(line) + 1] : line + 1;
  for (let row = first; row < end; row++) {
    if (isDocument(line) && (!isCritical(row) || hasItems(row))) continue;
    const slack = (view.to - view.from) / laneWidth();
    for (let index = firstBar[row]; index < firstBar[row + 1]; index++) {
      if (at < barStart[index] - slack || at > barStart[index] + Math.max(slack, bars.length[index])) continue;
      const own = barStart[index] - documents.start[documentOf[row]];
      const kind = kinds[bars.kind[index]],
        tried = ['attempt', 'failed'].includes(kind.code);
      inside.push(
        (isDocument(line) ? `${rowName(row)}: ` : '') +
          kind.name +
          (bars.attempt[index] ? `${tried ? ' ' : ' of attempt '}${bars.attempt[index]}` : '') +
          `, ${seconds(bars.length[index])}, ${seconds(own)} to ${seconds(own + bars.length[index])}`,
      );
      if (bars.first[index] >= 0) inside.push(`first token after ${seconds(bars.first[index])}`);
      if (bars.model[index] >= 0) inside.push(texts[bars.model[index]]);
      if (bars.fault[index] >= 0) inside.push(texts[bars.fault[index]]);
      break;
    }
    for (const index of secondsOf.get(row) || []) {
      const own = documents.start[documentOf[row]] + data.seconds.start[index];
      if (at >= own && at <= own + data.seconds.length[index])
        inside.push(
          `second call to ${texts[data.seconds.model[index]]}, ${seconds(data.seconds.length[index])}, ${data.seconds.won[index] ? 'won' : 'lost'}`,
        );
    }
  }
  return inside;
}
function showTip(line, x, y) {
  const tip = byId('tip'),
    box = canvas.getBoundingClientRect(),
    at = atX(x - box.left);
  const inside = x - box.left > label && at >= view.from && at <= view.to ? barWords(line, at) : [];
  tip.replaceChildren(
    ...[...words(line), ...inside].map((text, place) => {
      const part = document.createElement(place ? 'span' : 'b');
      part.textContent = text;
      return part;
    }),
  );
  tip.hidden = false;
  const own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(innerWidth - own.width - 6, x + 14))}px`;
  tip.style.top = `${y + 18 + own.height > innerHeight ? Math.max(6, y - own.height - 12) : y + 18}px`;
}
function totals() {
  const [from, to] = brush || [view.from, view.to],
    sums = new Float64Array(kinds.length);
  for (let place = 0; place < documentCount; place++) {
    if (documents.start[place] > to || documents.start[place] + documents.length[place] < from) continue;
    for (let index = firstBar[firstRow[place]]; index < firstBar[firstRow[place + 1]]; index++) {
      const share = Math.min(to, barStart[index] + bars.length[index]) - Math.max(from, barStart[index]);
      if (share > 0) sums[bars.kind[index]] += share;
    }
  }
  const parts = [...kinds.keys()]
    .filter((kind) => sums[kind] > 0)
    .sort((a, b) => sums[b] - sums[a])
    .map((kind) => `${kinds[kind].name} ${seconds(sums[kind])}`);
  byId('totals').textContent =
    `${brush ? 'Chosen range' : 'In view'}, ${seconds(from)} to ${seconds(to)}: ${parts.join(' · ') || 'nothing'}`;
}
