// From here on the page is alive.
for (const part of document.querySelectorAll('.live'))
  part.hidden = part.id === 'one' || (!data.is_batch && part.classList.contains('switch'));
if (!data.is_batch)
  for (const name of ['open-all', 'close-all']) byId(name).hidden = !rows.width.some((count) => count >= 0);
hovered = NaN;
chosen = NaN;
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', readStyle);
new ResizeObserver(resize).observe(chart);
readStyle();
arrange();
look(0, data.length);
totals();
performance.mark('ready');
