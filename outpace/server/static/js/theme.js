// Light or dark: the system's choice until the reader makes one.

/** Makes `button` switch the theme, and remembers the choice. */
export function connectTheme(button) {
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try {
      localStorage.setItem("outpace.theme", root.dataset.theme);
    } catch {
      // storage is off: the choice holds until the page is left
    }
  });
}
