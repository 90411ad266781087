// The first screen is drawn before the rest is read: who opens the page sees all of what there is to see at first.
const frame = () => new Promise(requestAnimationFrame);
function begin(columns) {
  take(columns);
  view.to = Math.max(1, data.length);
  if (!data.is_batch)
    for (let row = 0; row < rowCount; row++) if (hasItems(row) && itemsEnd(row) - row <= 13) opened.add(row);
}
begin(parse(byId('first').textContent));
readStyle();
arrange();
await frame();
performance.mark('drawn');
await frame();
await frame();
// After this frame, not in it: what takes long in it would hold it up.
await new Promise((done) => setTimeout(done));
if (document.readyState === 'loading')
  await new Promise((done) => document.addEventListener('DOMContentLoaded', done, {once: true}));
if (!data.is_whole) {
  const all = await inflate(byId('all').textContent);
  byId('all').textContent = '';
  await frame();
  begin(all);
  arrange();
}
