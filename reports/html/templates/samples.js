/* What the page of samples computes of its data; what is shown is in the page itself. */
document.addEventListener('alpine:init', () => {
  const split = (text) => text ? text.split(' ').map(Number) : [];
  Alpine.data('samples', () => ({
    cells: [], cell: 0, condition: 1, order: 'gain', metric: 'nll', text: '', page: 0, size: 20,
    init() {
      this.cells = JSON.parse(this.$root.dataset.cells);
      this.follow();
    },
    follow() {
      const asked = new URLSearchParams(location.hash.slice(1));
      this.cell = Math.min(Number(asked.get('cell') ?? 0), this.cells.length - 1);
      this.condition = Math.min(Number(asked.get('condition') ?? 1), this.here.conditions.length - 1);
      this.page = 0;
    },
    get here() { return this.cells[this.cell] ?? { conditions: [], left_out: [], samples: [] }; },
    mean(spelled) {
      const nlls = split(spelled).slice(this.metric === 'tail' ? 1 : 0);
      return nlls.reduce((sum, x) => sum + x, 0) / nlls.length / 100;
    },
    get chosen() {
      const words = this.text.trim().toLowerCase(), sign = this.order === 'loss' ? 1 : -1;
      const found = this.here.samples.filter((s) => s.n[0] && s.n[this.condition]
        && [s.q, s.p, s.a, s.i].some((part) => part.toLowerCase().includes(words)));
      const judged = found.map((sample) => ({ sample, all: false,
        gain: this.mean(sample.n[0]) - this.mean(sample.n[this.condition]) }))
        .filter((each) => Number.isFinite(each.gain));
      return judged.sort((a, b) => this.order === 'id'
        ? a.sample.i.localeCompare(b.sample.i) : sign * (a.gain - b.gain));
    },
    signed(x) { return (x < 0 ? '−' : '+') + Math.abs(x).toFixed(2); },
    tokens(sample, i) {
      const nlls = split(sample.n[i]), ends = split(sample.t);
      return nlls.map((nll, k) => ({
        text: ends.length === nlls.length
          ? sample.a.slice(k ? ends[k - 1] : 0, ends[k]) || '␣' : (nll / 100).toFixed(1),
        title: (nll / 100).toFixed(2) + ' nats',
        style: 'background: rgb(213 94 0 / ' + Math.min(nll / 1600, .5).toFixed(2) + ')',
      }));
    },
  }));
});
