// Versions are in gradle/libs.versions.toml, modules in settings.gradle.kts, group and version in gradle.properties.
plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.jvm) apply false
    alias(libs.plugins.dokka)
}

// What each library is published as; its build file has the description, and what is in it.
subprojects {
    plugins.withId("maven-publish") {
        configure<PublishingExtension> {
            publications {
                register<MavenPublication>("release") {
                    // An Android library has its component when its build file was read.
                    afterEvaluate {
                        from(components[if (pluginManager.hasPlugin("com.android.library")) "release" else "java"])
                    }
                    pom {
                        name = "edgeb ${project.name}"
                        description = provider { project.description }
                        licenses { license { name = "Apache-2.0" } }
                    }
                }
            }
        }
    }
}

// ./gradlew :dokkaGenerate
dependencies {
    dokka(project(":core"))
    dokka(project(":runtime"))
    dokka(project(":coroutines"))
}
