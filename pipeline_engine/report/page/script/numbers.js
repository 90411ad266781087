// Numbers, as `report/numbers.py` writes them.
function seconds(units) {
  const value = units * data.unit,
    isLong = data.length * data.unit >= 1;
  if (value < 0.00005) return '0 s';
  if (value < (isLong ? 0.05 : 0.9995)) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 59.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value),
    minutes = Math.round(value / 60);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}
const usd = (micro) => `$${(micro / 1e6).toFixed(micro === 0 || micro >= 99500 ? 2 : micro >= 9950 ? 3 : 4)}`;
// `toLocaleString` loads the languages of the world first.
const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ',');
const many = (count, noun) => `${grouped(count)} ${noun}${count === 1 ? '' : 's'}`;
// The charts and the waterfall are read together: their axes have the same ticks.
const mostTicks = () => (innerWidth > 700 ? 8 : 4);
function ticks(from, to, most) {
  const least = ((to - from) * data.unit) / most,
    long = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];
  let step = 10 ** Math.floor(Math.log10(least));
  step *= [1, 2, 5, 10].find((factor) => least <= factor * step * (1 + 1e-9));
  if (least > 20) step = least <= 30 ? 30 : long.find((one) => one >= least) || 86400;
  const found = [];
  for (let tick = Math.ceil((from * data.unit) / step - 1e-9); tick * step <= to * data.unit * (1 + 1e-9); tick++)
    found.push(+(tick * step).toFixed(9));
  return found;
}
function tickText(at) {
  if (at === 0) return '0';
  if (at < 1) return `${+(at * 1000).toFixed(6)} ms`;
  if (at < 60) return `${+at.toFixed(6)} s`;
  const parts = [
    [Math.floor(at / 3600), 'h'],
    [Math.floor(at / 60) % 60, 'min'],
    [+(at % 60).toFixed(6), 's'],
  ];
  return parts
    .filter(([count]) => count)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}
