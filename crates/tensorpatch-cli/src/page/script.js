// What a plot says of the bar under the pointer, or of the one that the arrow keys come to.
for (const plot of document.querySelectorAll(".plot")) {
  const bars = [...plot.querySelectorAll("[data-says]")];
  const output = plot.nextElementSibling;
  let at = bars.length;
  const show = (next) => {
    bars[at]?.classList.remove("now");
    at = Math.max(0, Math.min(bars.length - 1, next));
    bars[at]?.classList.add("now");
    output.textContent = bars[at]?.dataset.says ?? "";
  };
  plot.addEventListener("keydown", (event) => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: bars.length - 1 }[event.key];
    if (next === undefined || bars.length === 0) return;
    event.preventDefault();
    show(next);
  });
  const point = (event) => {
    const box = plot.querySelector("svg").getBoundingClientRect();
    const place = Math.floor(((event.clientX - box.left) / box.width) * bars.length);
    if (place >= 0 && place < bars.length) show(place);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
}
