package dev.edgeb.assistant.logic

import dev.edgeb.core.Source

/** One line of a menu. @property isReached False for a precision that no suggestion reaches: then all is silence. */
data class Choice<T>(val value: T, val isReached: Boolean = true)

/** What may be chosen with one model; every menu has the way back to its default. */
class Menus(
    val sources: List<Choice<Source?>>,
    val balances: List<Choice<Boolean>>,
    val precisions: List<Choice<Double?>>,
    val coverages: List<Choice<Double?>>
) {
    companion object {
        /** @param wish What is set, which decides what there is of the rest. */
        fun of(offers: List<Offer>, default: Source, wish: Wish): Menus {
            val offer = offers.firstOrNull { it.source == (wish.source ?: default) }
            val levels = (if (wish.fitted) offer?.raised else offer?.plain) ?: Levels()
            return Menus(
                listOf<Choice<Source?>>(Choice(null)) + offers.map { Choice<Source?>(it.source) },
                listOf(Choice(false)) + (if (offer?.raised == null) emptyList() else listOf(Choice(true))),
                listOf<Choice<Double?>>(Choice(null)) + levels.precisions.map { Choice<Double?>(it.key, it.value) },
                listOf<Choice<Double?>>(Choice(null)) + levels.coverages.map { Choice<Double?>(it) }
            )
        }
    }
}
