"use strict";
// The gallery: of any number of pictures, only the tiles in view exist.

const TALLEST = 12e6; // pixels; browsers do not go far beyond
const OVERSCAN = 2; // rows

class Gallery {
  /** `make(picture)` builds a tile's element, `drop(element)` lets go of it. */
  constructor(list, make, drop, open) {
    Object.assign(this, { list, make, drop, open });
    this.pictures = new Uint32Array(0);
    this.tiles = new Map();
    this.active = 0;
    this.asked = false;
    const ask = () => this.ask();
    window.addEventListener("scroll", ask, { passive: true });
    new ResizeObserver(() => { this.measure(); ask(); }).observe(document.documentElement);
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("focusin", (event) => this.focused(event));
    list.addEventListener("click", (event) => {
      const tile = event.target.closest(".open")?.closest("li");
      if (tile) this.open(this.placeOf(tile));
    });
    this.measure();
  }

  /** Show these pictures, in this order, from the first one on or where the reader was. */
  show(pictures, keep = false) {
    const before = this.pictures[this.active];
    this.pictures = pictures;
    if (!keep) {
      this.active = 0;
      for (const tile of this.tiles.values()) this.remove(tile);
      this.tiles.clear();
      if (this.list.getBoundingClientRect().top < 0) this.scrollTo(-this.covered());
    } else if (this.pictures[this.active] !== before) {
      this.active = 0;
    }
    this.measure();
    this.ask();
  }

  measure() {
    const style = getComputedStyle(this.list);
    const least = parseFloat(style.getPropertyValue("--tile"));
    this.gap = parseFloat(style.getPropertyValue("--gap"));
    const width = this.list.clientWidth;
    this.across = Math.max(2, Math.floor((width + this.gap) / (least + this.gap)));
    this.tileWidth = (width - this.gap * (this.across - 1)) / this.across;
    this.tileHeight = Math.round(this.tileWidth * 0.75) + parseFloat(style.getPropertyValue("--caption"));
    this.row = this.tileHeight + this.gap;
    this.whole = Math.ceil(this.pictures.length / this.across) * this.row;
    this.height = Math.min(this.whole, TALLEST);
    this.list.style.height = `${this.height}px`;
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.render(); });
  }

  /** How far the gallery is scrolled: on the page, and among all rows where those are too many. */
  scrolled() {
    const page = Math.max(0, -this.list.getBoundingClientRect().top);
    const most = this.height - window.innerHeight;
    const among = most > 0 && this.whole > this.height
      ? (page / most) * (this.whole - window.innerHeight) : page;
    return { page, among };
  }

  render() {
    const { page, among } = this.scrolled();
    const below = Math.max(0, this.list.getBoundingClientRect().top);
    const first = Math.max(0, Math.floor(among / this.row) - OVERSCAN) * this.across;
    const last = Math.min(this.pictures.length,
      (Math.ceil((among + window.innerHeight - below) / this.row) + OVERSCAN) * this.across);
    const wanted = new Map();
    for (let at = first; at < last; at++) wanted.set(this.pictures[at], at);
    const held = this.list.contains(document.activeElement) ? this.pictures[this.active] : undefined;
    if (held !== undefined) wanted.set(held, this.active);
    for (const [picture, tile] of this.tiles) {
      if (!wanted.has(picture)) {
        this.remove(tile);
        this.tiles.delete(picture);
      }
    }
    if (wanted.size && !performance.getEntriesByName("first tiles").length) {
      performance.mark("first tiles");
    }
    let next = this.list.firstElementChild;
    for (const [picture, at] of [...wanted].sort((a, b) => a[1] - b[1])) {
      let tile = this.tiles.get(picture);
      if (tile) {
        next = tile.nextElementSibling;
      } else {
        tile = this.make(picture);
        this.tiles.set(picture, tile);
        this.list.insertBefore(tile, next); // where it is read, too
      }
      this.place(tile, at, page - among);
    }
  }

  place(tile, at, offset) {
    const column = at % this.across, row = Math.floor(at / this.across);
    tile.dataset.at = at;
    tile.setAttribute("aria-posinset", at + 1);
    tile.setAttribute("aria-setsize", this.pictures.length);
    tile.style.width = `${this.tileWidth}px`;
    tile.style.height = `${this.tileHeight}px`;
    tile.style.transform =
      `translate(${column * (this.tileWidth + this.gap)}px, ${row * this.row + offset}px)`;
    for (const control of tile.querySelectorAll("button")) {
      control.tabIndex = at === this.active ? 0 : -1;
    }
  }

  remove(tile) {
    this.drop(tile);
    tile.remove();
  }

  placeOf(tile) {
    return Number(tile.dataset.at);
  }

  focused(event) {
    const tile = event.target.closest("li");
    if (!tile || this.placeOf(tile) === this.active) return;
    this.active = this.placeOf(tile);
    this.ask();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = Math.max(1, Math.floor(window.innerHeight / this.row));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across,
                    PageUp: -rows * this.across, PageDown: rows * this.across,
                    Home: -this.pictures.length, End: this.pictures.length };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = this.active + moves[event.key];
    const end = this.pictures.length - 1;
    if (Math.abs(moves[event.key]) === this.across && (to < 0 || to > end)) return;
    this.focus(Math.min(Math.max(to, 0), end));
  }

  /** Scroll so far that this much of all rows is above the window. */
  scrollTo(among) {
    const ratio = this.whole > this.height
      ? (this.height - window.innerHeight) / (this.whole - window.innerHeight) : 1;
    const start = this.list.getBoundingClientRect().top + window.scrollY;
    window.scrollTo({ top: Math.max(0, start + among * ratio) });
  }

  /** How much of the window's top lies under the controls. */
  covered() {
    const tools = document.getElementById("tools");
    return getComputedStyle(tools).position === "sticky" ? tools.offsetHeight : 0;
  }

  /** Bring a picture into view and put the focus on it. */
  focus(at) {
    if (!this.pictures.length) return;
    this.active = Math.min(at, this.pictures.length - 1);
    const rowTop = Math.floor(this.active / this.across) * this.row;
    const { among } = this.scrolled();
    const listTop = this.list.getBoundingClientRect().top;
    const seen = rowTop - among + Math.max(0, listTop); // from the top of the window
    const covered = this.covered();
    if (seen < covered) this.scrollTo(rowTop - covered);
    else if (seen + this.row > window.innerHeight) this.scrollTo(rowTop + this.row - window.innerHeight);
    this.render();
    this.tiles.get(this.pictures[this.active])?.querySelector(".open")
      .focus({ preventScroll: true });
    this.render();
  }
}
