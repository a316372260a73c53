// Draws each panel when it comes near the screen, and redraws the attention panels when a reader chooses.
const page = JSON.parse(document.getElementById("page-data").textContent);
const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function decode(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const codes = new DataView(bytes.buffer);
  const at = (place) => {
    const code = codes.getUint16(2 * place, true);
    return code === 65535 ? null : code / 65534;
  };
  // The values below a prefix of indices, as nested arrays.
  return function slice(...prefix) {
    let start = 0;
    packed.shape.forEach((size, axis) => { start = start * size + (prefix[axis] ?? 0); });
    const build = (axis, from) => {
      if (axis === packed.shape.length) return at(from);
      const stride = packed.shape.slice(axis + 1).reduce((product, size) => product * size, 1);
      return Array.from({ length: packed.shape[axis] }, (_, i) => build(axis + 1, from + i * stride));
    };
    return build(prefix.length, start);
  };
}

const attention = page.attention && {
  matrix: decode(page.attention.matrix),
  overTime: decode(page.attention.over_time),
};
const percent = (value) => (value === null ? "" : `${Math.round(100 * value)}%`);

const redraw = {
  attention_heatmap(chart, { layer, head, regime }) {
    const z = attention.matrix(regime, layer, head);
    Plotly.restyle(chart, { z: [z], text: [z.map((row) => row.map(percent))] }, [0]);
  },
  attention_time(chart, { layer, head }) {
    const y = attention.overTime(layer, head);
    Plotly.restyle(chart, { y }, y.map((_, group) => group));
  },
};

function draw(chart) {
  const panel = page.panels[chart.dataset.panel];
  Plotly.newPlot(chart, panel.data, panel.layout, options);
  const selects = [...chart.closest("article").querySelectorAll("select")];
  const choose = () => redraw[chart.dataset.panel](
    chart, Object.fromEntries(selects.map((select) => [select.name, Number(select.value)])));
  selects.forEach((select) => select.addEventListener("change", choose));
}

const near = new IntersectionObserver((entries) => {
  entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    near.unobserve(entry.target);
    draw(entry.target);
  });
}, { rootMargin: "800px" });
document.querySelectorAll(".chart").forEach((chart) => near.observe(chart));
