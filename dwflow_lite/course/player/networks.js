// Networks out of the numbers in this page: unpacked, decoded at any time, and run.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// -- numbers: whole numbers of one or two bytes, with a scale for each entry of the first axis -----------------------

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function numbers(pack) {
  const whole = new { 8: Int8Array, 16: Int16Array }[pack.bits](bytes(pack.data).buffer);
  const each = whole.length / pack.shape[0];
  return Float32Array.from(whole, (value, i) => value * pack.scale[Math.floor(i / each)]);
}

// -- zoos: the weights of every member, in the order of units that was asked for -------------------------------------

const zoos = new Map();

/** The members of a zoo, each a list of tensors: weight and bias of every layer. Aligning is reordering. */
function zoo(width, basis) {
  const name = `${width} ${basis}`;
  if (!zoos.has(name)) zoos.set(name, unpackZoo(data.zoos[width], basis === "aligned"));
  return zoos.get(name);
}

function unpackZoo({ tensors, orders }, isAligned) {
  const shapes = tensors.map((pack) => pack.shape.slice(1));
  const values = tensors.map(numbers);
  const hidden = orders.map(bytes);
  return Array.from({ length: tensors[0].shape[0] }, (_, member) => {
    const order = (layer) => {  // of the units that layer `layer` makes; inputs and outputs keep theirs
      const units = hidden[layer] && shapes[2 * layer][0];
      return isAligned && units ? hidden[layer].subarray(member * units, (member + 1) * units) : null;
    };
    return shapes.map(([rows, columns = 1], i) => {
      const layer = Math.floor(i / 2);
      const own = values[i].subarray(member * rows * columns, (member + 1) * rows * columns);
      return reordered(own, rows, columns, order(layer), columns > 1 ? order(layer - 1) : null);
    });
  });
}

function reordered(values, rows, columns, rowOrder, columnOrder) {
  const result = new Float32Array(values.length);
  for (let r = 0; r < rows; r += 1) {
    const from = (rowOrder ? rowOrder[r] : r) * columns;
    for (let c = 0; c < columns; c += 1) result[r * columns + c] = values[from + (columnOrder ? columnOrder[c] : c)];
  }
  return result;
}

// -- scenes: one for each choice; between two recorded moments everything goes straight ------------------------------

const scenes = data.scenes.map((scene) => {
  const [times, networks, members] = scene.shares.shape;
  const even = 1 / members;
  return {
    ...scene, times, networks,
    shares: numbers(scene.shares).map((share) => share + even),
    points: numbers(scene.points), members: numbers(scene.members),
    accuracy: numbers(scene.accuracy), distance: numbers(scene.distance),
  };
});

/** Values of all networks at a time: `each` numbers a network. */
function at(values, scene, time, each = 1) {
  const before = Math.min(Math.floor(time), scene.times - 2);
  const part = time - before;
  const size = scene.networks * each;
  const from = before * size;
  return Float32Array.from({ length: size }, (_, i) => values[from + i] * (1 - part) + values[from + size + i] * part);
}

/** A network is a sum of members, each with its share: a list of tensors. */
function decode(scene, time, network) {
  const members = zoo(scene.width, scene.basis);
  const shares = at(scene.shares, scene, time, members.length);
  return members[0].map((tensor, i) => {
    const sum = new Float32Array(tensor.length);
    members.forEach((member, m) => {
      const share = shares[network * members.length + m];
      for (let j = 0; j < sum.length; j += 1) sum[j] += share * member[i][j];
    });
    return sum;
  });
}

/** Probabilities of the ten digits for one image. */
function read(tensors, image) {
  let x = image;
  for (let i = 0; i < tensors.length; i += 2) {
    const [weight, bias] = [tensors[i], tensors[i + 1]];
    const inputs = x;
    x = bias.map((b, r) => inputs.reduce((sum, value, c) => sum + value * weight[r * inputs.length + c], b));
    if (i < tensors.length - 2) x = x.map((value) => Math.max(0, value));
  }
  const most = Math.max(...x);
  const shares = x.map((value) => Math.exp(value - most));
  const total = shares.reduce((a, b) => a + b);
  return shares.map((value) => value / total);
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}
