/* The little that binds the page to Alpine (filter, sort) and uPlot (curves on screen). */
/* By its place, what each claim is filtered and sorted by; rows of tables give the place alone. */
const claims = new Map();
const facetsOf = (dataset) => claims.get(dataset.place) ?? dataset;
document.addEventListener('alpine:init', () => {
  for (const claim of document.querySelectorAll('.kv-claim')) claims.set(claim.dataset.place, claim.dataset);
  Alpine.data('verdicts', () => ({
    text: '', verdict: '', topic: '', model: '', order: 'place',
    init() { this.$nextTick(() => this.reveal()); },
    fits(dataset) {
      const facets = facetsOf(dataset);
      const has = (list, one) => !one || list.split(' ').includes(one);
      return has(facets.verdicts, this.verdict) && has(facets.topic, this.topic)
        && has(facets.models, this.model)
        && facets.text.includes(this.text.trim().toLowerCase());
    },
    narrowed() { return Boolean(this.text.trim() || this.verdict || this.topic || this.model); },
    some(part) { return [...part.querySelectorAll('.kv-claim')].some((claim) => this.fits(claim.dataset)); },
    shown() {
      const claims = [...document.querySelectorAll('.kv-claim')];
      return claims.filter((claim) => this.fits(claim.dataset)).length;
    },
    clear() { this.text = this.verdict = this.topic = this.model = ''; },
    sort() {
      const numeric = ['place', 'size'].includes(this.order), down = this.order === 'size' ? -1 : 1;
      const by = (e) => facetsOf(e.dataset)[this.order], key = (e) => numeric ? Number(by(e)) : by(e);
      for (const list of document.querySelectorAll('[data-sorted]')) {
        const items = [...list.children].sort((a, b) =>
          down * (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : a.dataset.place - b.dataset.place));
        list.append(...items);
      }
    },
    reveal() {  // what a link leads to is unfolded first
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      for (let e = target; e; e = e.parentElement) if (e.tagName === 'DETAILS') e.open = true;
      if (target) target.scrollIntoView();
    },
  }));
});

/* A curve is drawn anew from its table of numbers, where it is first unfolded. */
const number = (cell) => cell.textContent === '–' ? null : Number(cell.textContent.replace('−', '-'));
function drawCurves(details) {
  const table = details.querySelector('table');
  const [head, ...rows] = [...table.rows].map((row) => [...row.cells]);
  const columns = head.map((_, i) => rows.map((row) => number(row[i])));
  const width = Number(details.dataset.curves), ink = getComputedStyle(document.body);
  const colours = ['one', 'two', 'three', 'four', 'five', 'six'].map(
    (name) => ink.getPropertyValue('--line-' + name).trim());
  const series = [{ label: head[0].textContent }], bands = [];
  head.slice(1).forEach((cell, i) => {
    const curve = Math.floor(i / width), part = i % width;
    series.push({ label: cell.textContent, stroke: colours[curve % 6], width: part ? 0 : 1.8,
      spanGaps: true, points: { show: !part && rows.length < 41, size: 5 } });
    if (part === 2) bands.push({ series: [i + 1, i], fill: colours[curve % 6] + '28' });
  });
  const host = document.createElement('div'), axis = { stroke: ink.color, grid: { stroke: '#8884' } };
  host.className = 'kv-live';
  details.before(host);
  new uPlot({ width: Math.min(340, host.clientWidth || 340), height: 200, series, bands,
    scales: { x: { time: false, distr: Number(details.dataset.log) ? 3 : 1, log: 2 } },
    axes: [{ ...axis, label: head[0].textContent, labelSize: 18, size: 30 },
      { ...axis, label: details.dataset.y, labelSize: 18, size: 46 }],
    cursor: { drag: { x: false, y: false } } }, columns, host);
}
document.addEventListener('toggle', (event) => {
  if (!event.target.open) return;
  for (const details of event.target.querySelectorAll('.kv-data[data-curves]:not([data-drawn])')) {
    details.dataset.drawn = '1';
    drawCurves(details);
  }
}, true);

/* The heads of pytest-html's table of tests sort by click alone. */
addEventListener('load', () => {
  for (const head of document.querySelectorAll('#results-table th.sortable')) {
    head.tabIndex = 0;
    head.addEventListener('keydown', (event) => { if (event.key === 'Enter') head.click(); });
  }
});
