// Pictures that were drawn here, kept by the browser; only as long as the page is open where the
// browser keeps nothing.

const promised = (asked) =>
  new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });

export class Gallery {
  #database = null;
  #next = 1;
  pictures = []; // the newest first: { id, made, model, title, about, file }

  // Read what is kept. Returns whether the browser keeps anything.
  async open() {
    try {
      const asked = indexedDB.open("smalti", 1);
      asked.onupgradeneeded = () =>
        asked.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
      this.#database = await promised(asked);
      this.pictures = (await promised(this.#store("readonly").getAll())).reverse();
    } catch {
      this.#database = null;
    }
    return this.#database !== null;
  }

  async add(picture) {
    try {
      picture.id = await promised(this.#store("readwrite").add(picture));
    } catch { // no database, or no space
      picture.id = `page-${this.#next++}`;
    }
    this.pictures.unshift(picture);
    return picture;
  }

  async remove(picture) {
    this.pictures = this.pictures.filter((one) => one !== picture);
    if (typeof picture.id === "number") await promised(this.#store("readwrite").delete(picture.id));
  }

  #store(mode) {
    return this.#database.transaction("pictures", mode).objectStore("pictures");
  }
}
