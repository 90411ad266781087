// Looking around: zooming, panning, choosing and opening, by mouse and by keyboard.
let totalsTimer = 0;
function look(from, to) {
  const least = Math.max(4, data.length / 100000),
    length = Math.min(data.length, Math.max(least, to - from));
  view.from = Math.max(0, Math.min(data.length - length, from + (to - from - length) / 2));
  view.to = view.from + length;
  const scale = 1000 / Math.max(1, data.length);
  for (const lane of document.querySelectorAll('.charts .stretched'))
    lane.setAttribute('viewBox', `${view.from * scale} 0 ${Math.max(length * scale, 1e-6)} 100`);
  const holder = document.querySelector('.charts .ticks');
  if (holder)
    holder.replaceChildren(
      ...ticks(view.from, view.to, mostTicks()).map((tick) => {
        const mark = document.createElement('i'),
          text = document.createElement('span');
        text.textContent = tickText(tick);
        mark.style.left = `${(100 * (tick / data.unit - view.from)) / length}%`;
        mark.append(text);
        return mark;
      }),
    );
  clearTimeout(totalsTimer);
  totalsTimer = setTimeout(totals, 60);
  draw();
}
const zoom = (factor, at = (view.from + view.to) / 2) =>
  look(at - (at - view.from) * factor, at + (view.to - at) * factor);
const pan = (share) => {
  const step = (view.to - view.from) * share;
  if (step < 0 ? view.from > 0 : view.to < data.length)
    look(Math.max(0, view.from + step), Math.min(data.length, view.to + step));
};
function zoomTo(line) {
  const start = isDocument(line) ? documents.start[documentAt(line)] : rowStart[line];
  const length = isDocument(line) ? documents.length[documentAt(line)] : rowLength[line];
  look(start - length * 0.05, start + length * 1.05);
}
function choose(line, isScrolled) {
  chosen = line;
  byId('row').textContent = words(line).join(' · ');
  if (isScrolled) {
    const y = lines.indexOf(line) * LINE;
    if (y < chart.scrollTop) chart.scrollTop = y;
    else if (y + LINE + AXIS > chart.scrollTop + height) chart.scrollTop = y + LINE + AXIS - height;
  }
  if (data.is_batch) pick(documentAt(line));
  draw();
}
function toggle(line) {
  if (!isDocument(line) && !hasItems(line)) return;
  if (!opened.delete(line)) opened.add(line);
  arrange();
}
const lineAt = (event) => {
  const box = canvas.getBoundingClientRect(),
    y = event.clientY - box.top;
  return y < AXIS ? NaN : (lines[Math.floor((y - AXIS + chart.scrollTop) / LINE)] ?? NaN);
};
let dragged = null;
canvas.addEventListener('pointerdown', (event) => {
  const x = event.clientX - canvas.getBoundingClientRect().left;
  dragged = {line: lineAt(event), x, isRange: false};
  if (event.pointerType === 'mouse') canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener('pointermove', (event) => {
  const x = event.clientX - canvas.getBoundingClientRect().left;
  if (dragged !== null && event.pointerType === 'mouse' && dragged.x > label && Math.abs(x - dragged.x) > 4)
    dragged.isRange = true;
  if (dragged !== null && dragged.isRange) {
    brush = [atX(dragged.x), atX(x)].map((at) => Math.min(data.length, Math.max(0, at))).sort((a, b) => a - b);
    byId('tip').hidden = true;
    totals();
    draw();
    return;
  }
  const line = lineAt(event);
  if (line !== hovered) {
    hovered = line;
    draw();
  }
  if (Number.isNaN(line)) byId('tip').hidden = true;
  else showTip(line, event.clientX, event.clientY);
});
canvas.addEventListener('pointerup', () => {
  if (dragged !== null && !dragged.isRange) {
    if (brush !== null) {
      brush = null;
      totals();
    }
    if (!Number.isNaN(dragged.line)) {
      choose(dragged.line, false);
      if (dragged.x < label || isDocument(dragged.line)) toggle(dragged.line);
    }
  }
  dragged = null;
  draw();
});
canvas.addEventListener('pointerleave', () => {
  hovered = NaN;
  byId('tip').hidden = true;
  draw();
});
canvas.addEventListener('dblclick', (event) => {
  const line = lineAt(event);
  if (brush !== null) {
    look(...brush);
    brush = null;
    totals();
  } else if (!Number.isNaN(line)) zoomTo(line);
});
chart.addEventListener(
  'wheel',
  (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, atX(event.clientX - canvas.getBoundingClientRect().left));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.deltaX || event.deltaY) / 800);
    }
  },
  {passive: false},
);
chart.addEventListener('scroll', () => {
  byId('tip').hidden = true;
  draw();
});
chart.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const index = lines.indexOf(chosen),
    page = Math.floor(height / LINE) - 2;
  const move = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -lines.length, End: lines.length}[
    event.key
  ];
  if (move !== undefined && lines.length)
    choose(lines[Math.min(lines.length - 1, Math.max(0, index + (index < 0 && move < 0 ? 1 : move)))], true);
  else if (event.key === 'ArrowLeft') pan(-0.2);
  else if (event.key === 'ArrowRight') pan(0.2);
  else if (event.key === '+' || event.key === '=') zoom(0.6);
  else if (event.key === '-') zoom(1 / 0.6);
  else if (event.key === 'z' && index >= 0) zoomTo(chosen);
  else if (event.key === '0') look(0, data.length);
  else if (event.key === 'Escape') {
    brush = null;
    totals();
    draw();
  } else if ((event.key === 'Enter' || event.key === ' ') && index >= 0) toggle(chosen);
  else if (event.key === '/') byId('find').focus();
  else return;
  event.preventDefault();
});
byId('find').addEventListener('input', (event) => {
  query = event.target.value.trim().toLowerCase();
  chart.scrollTop = 0;
  arrange();
});
byId('sort').addEventListener('change', (event) => {
  order = event.target.value;
  chart.scrollTop = 0;
  arrange();
});
byId('open-all').addEventListener('click', () => {
  for (const line of lines) if (isDocument(line)) opened.add(line);
  for (let row = 0; row < rowCount; row++) if (!data.is_batch && hasItems(row)) opened.add(row);
  arrange();
});
byId('close-all').addEventListener('click', () => {
  opened.clear();
  chart.scrollTop = 0;
  arrange();
});
byId('zoom-in').addEventListener('click', () => zoom(0.6));
byId('zoom-out').addEventListener('click', () => zoom(1 / 0.6));
byId('pan-left').addEventListener('click', () => pan(-0.25));
byId('pan-right').addEventListener('click', () => pan(0.25));
byId('zoom-reset').addEventListener('click', () => look(0, data.length));
