"use strict";

// Curves: a cursor with the numbers under the pointer. The curves themselves are drawn already.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), tip = chart.querySelector(".tip");
  const data = JSON.parse(chart.querySelector("script").textContent);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const x = (event.clientX - box.left) * view.width / box.width;
    const nearest = data.x.reduce((best, value, i) => Math.abs(value - x) < Math.abs(data.x[best] - x) ? i : best, 0);
    cursor.setAttribute("x1", data.x[nearest]);
    cursor.setAttribute("x2", data.x[nearest]);
    cursor.style.visibility = tip.style.visibility = "visible";
    tip.replaceChildren(...data.tips[nearest].map((line, i) => {
      const row = document.createElement("div");
      row.textContent = line;
      if (i) row.style.color = `var(--${data.rows[i - 1]})`;
      return row;
    }));
    const place = data.x[nearest] * box.width / view.width;
    tip.style.left = place > box.width / 2 ? `${place - tip.offsetWidth - 2}px` : `${place + 30}px`;
  });
  svg.addEventListener("pointerleave", () => { cursor.style.visibility = tip.style.visibility = "hidden"; });
}

// Players: the camera's frames, then prediction, truth and difference side by side. Without this script, and in print
// before anything was played, each shows the still that it came with.
for (const player of document.querySelectorAll(".player")) {
  const data = JSON.parse(player.querySelector("script").textContent);
  const load = (frames) => frames.map((frame) => {
    const image = new Image();
    image.src = "data:image/jpeg;base64," + frame;
    return image;
  });
  // An image element stands in one place at a time, so that each panel has its own of the camera's frames.
  const panels = ["predicted", "truth", "difference"].map((name) => ({
    name, frames: [...load(data.camera), ...load(data[name])], place: player.querySelector(`.${name} .frame`),
  }));
  const slider = player.querySelector("input"), output = player.querySelector("output");
  const button = player.querySelector("button");
  const seen = data.camera.length, total = seen + data.truth.length;
  slider.max = total - 1;

  const show = (at) => {
    const predicted = at - seen;
    for (const { name, frames, place } of panels) {
      place.replaceChildren(frames[at]);
      frames[at].style.visibility = name === "difference" && predicted < 0 ? "hidden" : "";
      place.classList.toggle("camera", predicted < 0);
    }
    const seconds = (predicted + 1) / data.frame_rate;
    output.textContent = (predicted < 0 ? "camera " : "predicted ") + (seconds < 0 ? "−" : "+")
      + Math.abs(seconds).toFixed(2) + " s" + (predicted < 0 ? "" : `, step ${predicted + 1}`);
    slider.value = at;
    player.dataset.frame = at;
  };

  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const play = () => {
    button.textContent = "Pause";
    timer = setInterval(() => show((Number(slider.value) + 1) % total), 1000 / data.frame_rate);
  };
  button.addEventListener("click", () => timer ? stop() : play());
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  Promise.all(panels.flatMap((panel) => panel.frames).map((image) => image.decode())).then(() => {
    show(seen + Math.floor(data.truth.length / 2));
    player.dataset.ready = "yes";
  });
}
