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

// Players: the camera's frames, then prediction, truth and difference side by side.
for (const player of document.querySelectorAll(".player")) {
  const data = JSON.parse(player.querySelector("script").textContent);
  const load = (frames) => frames.map((frame) => {
    const image = new Image();
    image.src = "data:image/jpeg;base64," + frame;
    return image;
  });
  const camera = load(data.camera);
  const panels = ["predicted", "truth", "difference"].map((name) => ({
    name, frames: load(data[name]), canvas: player.querySelector(`.${name} canvas`),
  }));
  const slider = player.querySelector("input"), output = player.querySelector("output");
  const button = player.querySelector("button");
  const total = camera.length + data.truth.length;
  slider.max = total - 1;

  const show = (at) => {
    const predicted = at - camera.length;
    for (const { name, frames, canvas } of panels) {
      const image = predicted >= 0 ? frames[predicted] : name === "difference" ? null : camera[at];
      const pen = canvas.getContext("2d");
      if (image && image.naturalWidth) {
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
        pen.drawImage(image, 0, 0);
      } else {
        pen.clearRect(0, 0, canvas.width, canvas.height);
      }
      canvas.style.borderColor = name === "predicted" && predicted >= 0 ? "" : "var(--repeat_last_frame)";
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
  Promise.all([...camera, ...panels.flatMap((panel) => panel.frames)].map((image) => image.decode())).then(() => {
    for (const { canvas } of panels) { canvas.width = camera[0].naturalWidth; canvas.height = camera[0].naturalHeight; }
    show(camera.length + Math.floor(data.truth.length / 2));
    player.dataset.ready = "yes";
  });
}
