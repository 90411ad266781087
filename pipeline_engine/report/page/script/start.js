// From here on the page is alive.
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  readStyle();
  draw();
});
new ResizeObserver(resize).observe(chart);
look(0, data.length);
totals();
byId('live').inert = false;
performance.mark('ready');
