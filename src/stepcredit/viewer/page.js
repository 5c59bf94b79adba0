"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const grid = by("pairs");
  if (grid) {
    const drawn = [...grid.children];
    const arrange = () => {
      const score = `data-gain-${by("score").selectedIndex}`;
      const gain = (pair) => Number(pair.getAttribute(score));
      const unknown = (pair) => Number.isFinite(gain(pair)) ? 0 : 1; // what could not be scored comes last
      const orders = {
        as: () => 0,
        gain: (a, b) => unknown(a) - unknown(b) || gain(b) - gain(a),
        loss: (a, b) => unknown(a) - unknown(b) || gain(a) - gain(b),
        caption: (a, b) => a.dataset.caption.localeCompare(b.dataset.caption),
      };
      const sorted = [...drawn].sort(orders[by("order").value]);
      sorted.forEach((pair, index) => { pair.hidden = index >= Number(by("amount").value); });
      grid.replaceChildren(...sorted);
    };
    for (const id of ["score", "order", "amount"]) by(id).addEventListener("change", arrange);
    arrange();
  }
  const chooser = by("group");
  if (chooser) {
    chooser.addEventListener("change", () => {
      document.querySelectorAll(".group").forEach((chart) => { chart.hidden = chart.id !== `group-${chooser.value}`; });
    });
  }
})();
